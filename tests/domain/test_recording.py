"""A recording is as long as its bytes say, whatever its header claims.

`sounds/` has three seconds, one of them a tone, as FFmpeg's encoders write them.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import parley.domain.recording
from parley.client.reading import recording_seconds
from parley.domain.errors import InvalidInput
from parley.domain.recording import seconds_by_size
from tests.parts import SAMPLES
from tests.sounds import wav

SOUNDS = Path(__file__).parent / "sounds"
SECONDS = {"pcm.aiff": 1.0}
WALKED = ("aac.aac", "aac.m4a", "flac.flac", "layer2.mp2", "mp3.mp3", "mp3-mpeg1.mp3", "opus.ogg", "pcm.aiff")


def sound(name: str) -> bytes:
    return (SOUNDS / name).read_bytes()


@pytest.mark.parametrize("name", WALKED)
def test_a_recording_is_as_long_as_its_sound(name: str):
    seconds = SECONDS.get(name, 3.0)
    assert seconds <= seconds_by_size(sound(name)) <= seconds + 0.15


def test_vorbis_is_at_most_as_long_as_its_packets_can_be():
    audio = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()
    assert recording_seconds(audio) <= seconds_by_size(audio) <= 1.5 * recording_seconds(audio)


@pytest.mark.parametrize(
    "content", [sound("alac.m4a"), bytes(5000), b"RIFF\0\0\0\0WAVEfmt \x11\0", b"FORM\0\0\0\0AIFF"]
)
def test_an_unknown_codec_has_the_lowest_rate(content: bytes):
    assert seconds_by_size(content) == len(content) * 8 / 4000


def lying_mp3(audio: bytes) -> bytes:
    """Ten times the sound behind a table that counts one frame."""
    place = max(audio.find(b"Xing"), audio.find(b"Info"))
    assert place > 0
    return audio[: place + 8] + struct.pack(">I", 1) + audio[place + 12 :] + audio * 9


def lying_flac(audio: bytes) -> bytes:
    """One sample in all, says STREAMINFO."""
    return audio[:21] + bytes([audio[21] & 0xF0, 0, 0, 0, 1]) + audio[26:]


def lying_ogg(audio: bytes) -> bytes:
    """The last page is at 0.1 s."""
    place = audio.rfind(b"OggS") + 6
    return audio[:place] + struct.pack("<q", 4800) + audio[place + 8 :]


def lying_m4a(audio: bytes) -> bytes:
    """The movie, its track and its samples last a tenth."""
    for name, at in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24), (b"stts", 16)):
        place = audio.find(name) + at
        audio = audio[:place] + struct.pack(">I", 100) + audio[place + 4 :]
    return audio


@pytest.mark.parametrize(
    ("name", "lie", "times"),
    [("mp3.mp3", lying_mp3, 10), ("flac.flac", lying_flac, 1), ("opus.ogg", lying_ogg, 1), ("aac.m4a", lying_m4a, 1)],
)
def test_a_claim_in_a_header_is_not_trusted(name: str, lie: Callable[[bytes], bytes], times: int):
    lied = lie(sound(name))
    assert recording_seconds(lied) < 1, "the claim is believed where nothing is paid"
    assert 3.0 * times <= seconds_by_size(lied) <= 3.2 * times


def page(packets: list[bytes], *, serial: int = 7, continued: bool = False) -> bytes:
    lacing = bytes(len(packet) for packet in packets)
    return b"OggS" + struct.pack("<BBqIIIB", 0, continued, 0, serial, 0, 0, len(lacing)) + lacing + b"".join(packets)


def test_silence_in_packets_of_one_byte_is_counted_by_what_each_packet_says():
    """Opus sends one byte in silence: 60 ms in the slowest mode, far below its lowest rate of 6 kbit/s."""
    silence = bytes([3 << 3])
    audio = page([b"OpusHead" + bytes(11)]) + page([b"OpusTags" + bytes(8)]) + page([silence] * 200) * 10
    assert seconds_by_size(audio) == pytest.approx(200 * 10 * 0.06)


def test_a_packet_that_was_never_finished_does_not_hide_the_next_one():
    unfinished = page([bytes([16 << 3]) + bytes(254)])
    whole = page([bytes([3 << 3])])
    audio = page([b"OpusHead" + bytes(11)]) + (unfinished + whole) * 100
    assert seconds_by_size(audio) == pytest.approx(100 * 0.06)


def test_mpeg_frames_of_each_version_have_their_length():
    for header, length, seconds in (
        (b"\xff\xfb\x90\x00", 417, 1152 / 44100),  # MPEG 1, layer III, 128 kbit/s
        (b"\xff\xf3\x18\x00", 36, 576 / 16000),  # MPEG 2, layer III, 8 kbit/s
        (b"\xff\xe3\x18\x00", 72, 576 / 8000),  # MPEG 2.5, layer III, 8 kbit/s
        (b"\xff\xff\x14\x00", 48, 384 / 48000),  # MPEG 1, layer I, 32 kbit/s
    ):
        audio = header + bytes(length - 4)
        assert seconds_by_size(audio * 50) == pytest.approx(50 * seconds), header


def test_counting_ends_at_a_limit_that_is_never_too_low(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parley.domain.recording, "MOST_FRAMES", 10)
    for name in WALKED:
        assert seconds_by_size(sound(name)) >= SECONDS.get(name, 3.0)


def test_a_search_for_frames_ends_at_a_limit_too(monkeypatch: pytest.MonkeyPatch):
    """What looks like the beginning of a frame and is none takes time as well. What is left counts as sound."""
    monkeypatch.setattr(parley.domain.recording, "MOST_FRAMES", 10)
    element = b"\xec\x80"
    webm = b"\x1a\x45\xdf\xa3\x80" + b"\xec\x86A_OPUS" + element * 500
    for name, audio in {"mp3": b"\xff" * 1000, "flac": b"fLaC" + b"\xff\xf8" * 500, "webm": webm}.items():
        assert seconds_by_size(audio) > 900 * 0.12, name


@pytest.mark.parametrize("chunks", [1_000, 1_001])
def test_a_wav_file_has_its_sound_after_few_chunks(chunks: int):
    plain = wav(bytes(32_000))
    audio = plain[:12] + b"JUNK\0\0\0\0" * (chunks - 2) + plain[12:]
    if chunks <= 1_000:
        assert recording_seconds(audio) == 2.0
        return
    with pytest.raises(InvalidInput, match="more than the 1,000 chunks allowed"):
        recording_seconds(audio)


@pytest.mark.parametrize("place", [b"moov", b"trak"])
def test_an_mp4_file_with_too_many_boxes_has_the_lowest_rate(place: bytes):
    """`place`: what the boxes are put before."""
    audio, boxes = sound("aac.m4a"), (b"\0\0\0\x08free") * 1_001
    at = audio.find(place) - 4
    audio = audio[:at] + boxes + audio[at:]
    if place == b"trak":
        moov = audio.find(b"moov") - 4
        size = int.from_bytes(audio[moov : moov + 4]) + len(boxes)
        audio = audio[:moov] + struct.pack(">I", size) + audio[moov + 4 :]
    assert seconds_by_size(audio) == len(audio) * 8 / 4000


def test_an_aiff_file_with_an_endless_rate_is_damaged():
    audio = sound("pcm.aiff")
    place = audio.find(b"COMM") + 16
    damaged = audio[:place] + b"\x7f\xfe" + audio[place + 2 :]
    assert seconds_by_size(damaged) == len(damaged) * 8 / 4000
    with pytest.raises(InvalidInput, match="is not audio"):
        recording_seconds(damaged)


@pytest.mark.parametrize("name", WALKED)
def test_damaged_files_have_a_length(name: str):
    """Cut anywhere near the beginning, where the headers are, and with one byte of them changed."""
    audio = sound(name)
    for place in range(400):
        changed = audio[:place] + bytes([audio[place] ^ 0xFF]) + audio[place + 1 :]
        assert seconds_by_size(audio[:place]) >= 0
        assert seconds_by_size(changed) >= 0
