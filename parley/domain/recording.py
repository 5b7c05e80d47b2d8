"""The length of a recording by its bytes, where its header may claim less than there is.

A vendor transcribes, and bills, the sound that it decodes. So the sound is counted as a decoder finds it, frame by
frame, and no length in a header or in the file's tables is trusted.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from parley.domain.audio_frames import (
    AAC_HERTZ,
    AAC_SAMPLES,
    Frame,
    flac_frames,
    mpeg_frames,
    ogg_packets,
    opus_seconds,
)
from parley.domain.errors import InvalidInput

# Codecs of WAV with a fixed size for each sample: PCM, floats, A-law, mu-law, and the extensible header of these.
FIXED_SIZE_CODECS = frozenset({0x0001, 0x0003, 0x0006, 0x0007, 0xFFFE})
# No codec of a format that is not walked has a lower rate: WMA Voice begins at 4 kbit/s, GSM and ADPCM have more.
LOWEST_BITS_PER_SECOND = 4000
# More frames than a recording of the largest size can have. Each further byte counts as the longest frame of Opus.
MOST_FRAMES, LONGEST_FRAME_SECONDS = 2_000_000, 0.12

# Far more than a file has before its sound, or in one box of MP4.
MOST_CHUNKS = MOST_BOXES = 1000
# MP4, ISO/IEC 14496-12: where a track's tables are, and the tags of AAC's configuration in them.
TABLES = (b"mdia", b"minf", b"stbl")
ES_DESCRIPTOR, DECODER_CONFIGURATION, DECODER_SPECIFIC = 3, 4, 5
AAC_TYPES = (0x40, 0x66, 0x67, 0x68)
# As much of a track's description as has its decoder's configuration.
DESCRIPTION_HEAD = 1024
# One skips the encoder's delay, one is the sound.
MOST_EDITS = 2
# Matroska and WebM, RFC 9559: elements that contain others, and those that have the sound.
SEGMENT, CLUSTER, BLOCK_GROUP = 0x18538067, 0x1F43B675, 0xA0
BLOCKS = (0xA3, 0xA1)
# Writers that stream give this length to a chunk, or 0: they do not know the length when they write the header.
UNKNOWN_SIZES = frozenset({0, 0x7FFFFFFF, 0xFFFFFFFF})
# Where some content begins and ends.
Place = tuple[int, int]


@dataclass(frozen=True)
class Wav:
    """The sound of a WAV file whose samples have a fixed size. `form`: the content of its `fmt` chunk.

    sound: where the samples begin and end: as far as there are bytes, whatever length the header claims.
    """

    form: bytes
    channels: int
    sample_rate: int
    frame_bytes: int
    sound: Place
    little_endian: bool

    @property
    def seconds(self) -> float:
        start, end = self.sound
        return (end - start) // self.frame_bytes / self.sample_rate


def read_wav(audio: bytes) -> Wav | None:
    """The layout of a WAV file; None if it is none, or if its codec has no fixed size for a sample.

    Raises:
        InvalidInput: it has too many chunks.
    """
    if not WAV.match(audio):
        return None
    little_endian = audio[:4] != b"RIFX"
    order, form, place = "<" if little_endian else ">", b"", 12
    for _ in range(MOST_CHUNKS):
        if place + 8 > len(audio):
            return None
        name, size = audio[place : place + 4], struct.unpack_from(f"{order}I", audio, place + 4)[0]
        place += 8
        if name == b"data":
            return _wav(form, order, (place, _end_of_sound(audio, place, size)))
        if name == b"fmt ":
            form = audio[place : place + size]
        place += size + size % 2
    raise InvalidInput(f"has more than the {MOST_CHUNKS:,} chunks allowed before its sound", where="recording")


def _end_of_sound(audio: bytes, place: int, size: int) -> int:
    return len(audio) if size in UNKNOWN_SIZES else min(place + size, len(audio))


def _wav(form: bytes, order: str, sound: Place) -> Wav | None:
    if len(form) < 16:
        return None
    codec, channels, sample_rate, _, frame_bytes = struct.unpack_from(f"{order}HHIIH", form)
    if codec not in FIXED_SIZE_CODECS or not (channels and sample_rate and frame_bytes):
        return None
    return Wav(form, channels, sample_rate, frame_bytes, sound, order == "<")


def with_true_length(audio: bytes) -> bytes:
    """A recording that a decoder reads to its end.

    A WAV file whose header has another length than its sound, or none, gets a header with it.
    """
    wav = read_wav(audio)
    if wav is None:
        return audio
    start, end = wav.sound
    order = "<" if wav.little_endian else ">"
    if struct.unpack_from(f"{order}I", audio, start - 4)[0] == end - start:
        return audio
    form = b"fmt " + struct.pack(f"{order}I", len(wav.form)) + wav.form
    content = b"WAVE" + form + b"data" + struct.pack(f"{order}I", end - start) + audio[start:end]
    return (b"RIFF" if wav.little_endian else b"RIFX") + struct.pack(f"{order}I", len(content)) + content


def container(audio: bytes) -> str:
    """The container of a recording by its first bytes, as FFmpeg names it; empty if it is none of those that are read.

    A decoder must not guess: some of its formats are lists of other files and addresses that it would open.
    """
    return next((name for signature, name, _ in FORMATS if signature.match(audio)), "")


def true_seconds(audio: bytes) -> float | None:
    """How long the sound in these bytes is, in seconds; None for a container that is not walked."""
    wav = read_wav(audio)
    if wav is not None:
        return wav.seconds
    if container(audio) == "matroska":
        return _of_matroska(audio)
    return None


def seconds_by_size(audio: bytes) -> float:
    """How long the sound in these bytes can be, in seconds, whatever the file's header claims."""
    measure = next((measure for signature, _, measure in FORMATS if signature.match(audio)), None)
    return measure(audio) if measure else _by_lowest_rate(len(audio))


def _by_lowest_rate(size: int) -> float:
    return size * 8 / LOWEST_BITS_PER_SECOND


def _walked(frames: Callable[[bytes], Iterator[Frame]]) -> Callable[[bytes], float]:
    """Add up the frames of a format. Counting ends at a limit, since it must not take long."""

    def measure(audio: bytes) -> float:
        counted = list(islice(frames(audio), MOST_FRAMES))
        total = sum(seconds for _, seconds in counted)
        return total if len(counted) < MOST_FRAMES else total + (len(audio) - counted[-1][0]) * LONGEST_FRAME_SECONDS

    return measure


def _of_wav(audio: bytes) -> float:
    order = ">" if audio[:4] == b"RIFX" else "<"
    place = audio.find(b"fmt ", 12)
    if place < 0 or len(audio) < place + 24:
        return _by_lowest_rate(len(audio))
    codec, _, sample_rate, _, frame_bytes = struct.unpack_from(f"{order}HHIIH", audio, place + 8)
    if codec not in FIXED_SIZE_CODECS or not sample_rate or not frame_bytes:
        return _by_lowest_rate(len(audio))
    return len(audio) / (sample_rate * frame_bytes)


def _of_aiff(audio: bytes) -> float:
    place = audio.find(b"COMM", 12)
    if place < 0 or len(audio) < place + 26:
        return _by_lowest_rate(len(audio))
    channels, _, bits, exponent, mantissa = struct.unpack_from(">HIHHQ", audio, place + 8)
    try:
        hertz = mantissa * 2.0 ** ((exponent & 0x7FFF) - 16383 - 63)
    except OverflowError:  # of 80 bits, which hold more than a float
        return _by_lowest_rate(len(audio))
    rate = channels * hertz * ((bits + 7) // 8)
    return len(audio) / rate if rate >= 1 else _by_lowest_rate(len(audio))


def _of_mp4(audio: bytes) -> float:
    """The frames of the tracks of AAC, at the rate of their decoder. Other codecs and fragments have no such table."""
    try:
        tracks = [_of_track(audio, track) for track in _boxes(audio, (0, len(audio)), b"moov", b"trak")]
    except IndexError:
        return _by_lowest_rate(len(audio))
    known = [seconds for seconds in tracks if seconds is not None]
    return sum(known) if known and len(known) == len(tracks) and b"moof" not in audio else _by_lowest_rate(len(audio))


def _of_track(audio: bytes, track: Place) -> float | None:
    """The length of a track; None where it is not known. An edit list with several entries can repeat its sound."""
    try:
        at = _first(audio, track, b"mdia", b"hdlr") + 8
        if audio[at : at + 4] != b"soun":
            return 0.0
        edits = [int.from_bytes(audio[at + 4 : at + 8]) for at, _ in _boxes(audio, track, b"edts", b"elst")]
        hertz = _aac_hertz(audio, _first(audio, track, *TABLES, b"stsd"))
        frames = int.from_bytes(audio[(at := _first(audio, track, *TABLES, b"stsz")) + 8 : at + 12])
    except (StopIteration, IndexError):
        return None
    return None if max(edits, default=0) > MOST_EDITS else frames * AAC_SAMPLES / hertz


def _aac_hertz(audio: bytes, descriptions: int) -> int:
    """The rate in the configuration of AAC's decoder (ISO/IEC 14496-1, section 7.2.6), which is the one that counts.

    Raises:
        IndexError: the sound is not AAC, or has several descriptions.
    """
    count, kind = audio[descriptions + 4 : descriptions + 8], audio[descriptions + 12 : descriptions + 16]
    place = audio.find(b"esds", descriptions, descriptions + DESCRIPTION_HEAD)
    if count != b"\0\0\0\1" or kind != b"mp4a" or place < 0:
        raise IndexError
    place = _descriptor(audio, place + 8, ES_DESCRIPTOR) + 3
    place = _descriptor(audio, place, DECODER_CONFIGURATION)
    if audio[place] not in AAC_TYPES:
        raise IndexError
    place = _descriptor(audio, place + 13, DECODER_SPECIFIC)
    return AAC_HERTZ[(audio[place] & 7) << 1 | audio[place + 1] >> 7]


def _descriptor(audio: bytes, place: int, tag: int) -> int:
    """Where the content of a descriptor begins."""
    if audio[place] != tag:
        raise IndexError
    place += 1
    while audio[place] & 0x80:
        place += 1
    return place + 1


def _first(audio: bytes, within: Place, *path: bytes) -> int:
    """Where the content of the first box at that path begins."""
    return next(_boxes(audio, within, *path))[0]


def _boxes(audio: bytes, within: Place, *path: bytes) -> Iterator[Place]:
    """The contents of the boxes at a path.

    Raises:
        IndexError: there are too many boxes.
    """
    if not path:
        yield within
        return
    start, end = within
    for _ in range(MOST_BOXES):
        if start + 8 > end:
            return
        size, content = int.from_bytes(audio[start : start + 4]), start + 8
        if size == 1:
            size, content = int.from_bytes(audio[content : content + 8]), content + 8
        size = size or end - start
        if size < content - start:
            return
        if audio[start + 4 : start + 8] == path[0]:
            yield from _boxes(audio, (content, min(start + size, end)), *path[1:])
        start += size
    raise IndexError


def _of_matroska(audio: bytes) -> float:
    """The frames of Opus; other codecs are not walked. A block is a packet, unless it is laced, which Opus is not."""
    if b"A_OPUS" not in audio[:MATROSKA_HEAD]:
        return _by_lowest_rate(len(audio))
    return _walked(_matroska_frames)(audio)


def _matroska_frames(audio: bytes) -> Iterator[Frame]:
    """Packets of blocks; other elements with 0 seconds. Containers are entered, so that their sizes do not matter."""
    place, end = 0, len(audio)
    while place < end and audio[place]:
        name, place = _vint(audio, place, marked=True)
        if place >= end or not audio[place]:
            return
        size, place = _vint(audio, place, marked=False)
        # The track's number, a relative time of two bytes, and a byte of flags are before the packet.
        yield place, opus_seconds(audio[place + 4 : place + 6]) if name in BLOCKS else 0.0
        if name not in (SEGMENT, CLUSTER, BLOCK_GROUP):
            place += size


def _vint(audio: bytes, place: int, *, marked: bool) -> tuple[int, int]:
    """A number of variable length (RFC 8794, section 4), and the place after it.

    marked: the number keeps the bit that marks its length, as ids do.
    """
    length = 9 - audio[place].bit_length()
    number = int.from_bytes(audio[place : place + length])
    return number if marked else number & ((1 << 7 * length) - 1), place + length


WAV = re.compile(rb"(RIFF|RIFX|RF64)....WAVE", re.DOTALL)
# Where the names of a file's codecs are, which stand before its sound.
MATROSKA_HEAD = 4096
FORMATS: tuple[tuple[re.Pattern[bytes], str, Callable[[bytes], float]], ...] = (
    (WAV, "wav", _of_wav),
    (re.compile(rb"FORM....AIF[FC]", re.DOTALL), "aiff", _of_aiff),
    (re.compile(rb"fLaC"), "flac", _walked(flac_frames)),
    (re.compile(rb"OggS"), "ogg", _walked(ogg_packets)),
    (re.compile(rb"....ftyp", re.DOTALL), "mp4", _of_mp4),
    (re.compile(rb"\x1a\x45\xdf\xa3"), "matroska", _of_matroska),
    (re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), "aac", _walked(mpeg_frames)),
    (re.compile(rb"ID3|\xff"), "mp3", _walked(mpeg_frames)),
)
