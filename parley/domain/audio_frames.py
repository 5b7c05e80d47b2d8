"""The frames of encoded audio, with their places in the file and their lengths in seconds.

Only headers of frames are read, nothing is decoded. Sound that a decoder finds is in a frame that is found here.
A place that looks like a frame, and is none, is given with 0 seconds: who counts can bound the search too.
"""

import re
from collections.abc import Callable, Iterator, Sequence

# MPEG audio, ISO/IEC 11172-3 and 13818-3: kbit/s by (is MPEG 1, layer), and Hz by the version's two bits.
MPEG_RATES = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MPEG_HERTZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
# AAC, ISO/IEC 14496-3: Hz by index; 1,024 samples a frame, twice as many where SBR doubles the rate.
AAC_HERTZ = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
AAC_SAMPLES = 1024
# FLAC, RFC 9639, section 9.1: samples and Hz by the codes of a frame's header.
FLAC_FRAME = re.compile(rb"\xff[\xf8\xf9]")
FLAC_SAMPLES = {1: 192, **{code: 144 << code for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}
FLAC_RATE_FIELDS = {12: (1, 1000), 13: (2, 1), 14: (2, 10)}
FLAC_HERTZ = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
# Opus, RFC 6716, section 3.1: milliseconds of a frame by its configuration.
OPUS_MS = (*(10, 20, 40, 60) * 3, *(10, 20) * 2, *(2.5, 5, 10, 20) * 4)
VORBIS_HEADERS = (b"\x03", b"\x05")
# The longest packet of FLAC in Ogg at 44,100 Hz; Speex has at most 0.2 s.
LONGEST_PACKET_SECONDS = 1.5
# The flag of a page of Ogg that begins with the rest of a packet.
CONTINUED = 1
# As much of a packet as says how long it is.
PACKET_HEAD = 30
# Where a frame begins, and its seconds.
Frame = tuple[int, float]


def mpeg_frames(audio: bytes) -> Iterator[Frame]:
    """MP3 and AAC (ADTS). Bytes between frames are passed over, as a decoder does."""
    place, end = 0, len(audio) - 6
    if audio[:3] == b"ID3" and len(audio) > 10:
        place = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(audio[6:10], (21, 14, 7, 0), strict=True))
    while 0 <= (place := audio.find(b"\xff", place)) < end:
        length, seconds = _mpeg_frame(audio, place)
        yield place, seconds
        place += max(length, 1)


def _mpeg_frame(audio: bytes, place: int) -> tuple[int, float]:
    """The bytes and the seconds of a frame; zeros without one. A frame of free format ends at the next one."""
    one, two = audio[place + 1], audio[place + 2]
    if one & 0xF6 == 0xF0:
        length = (audio[place + 3] & 3) << 11 | audio[place + 4] << 3 | audio[place + 5] >> 5
        hertz = _at(AAC_HERTZ, two >> 2 & 15)
        return (length, AAC_SAMPLES * ((audio[place + 6] & 3) + 1) / hertz) if hertz and length > 6 else (0, 0.0)
    version, layer = one >> 3 & 3, 4 - (one >> 1 & 3)
    hertz = _at(MPEG_HERTZ.get(version, ()), two >> 2 & 3)
    if one & 0xE0 != 0xE0 or layer == 4 or not hertz or two >> 4 == 15:
        return 0, 0.0
    kilobits, padding = MPEG_RATES[version == 3, layer][two >> 4], two >> 1 & 1
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    slot = 4 if layer == 1 else 1
    length = (samples * kilobits * 125 // (hertz * slot) + padding) * slot if kilobits else 4
    return length, samples / hertz


def flac_frames(audio: bytes) -> Iterator[Frame]:
    """Frames have no length: each header is found by its code and its checksum."""
    stated = int.from_bytes(audio[18:21]) >> 4
    for found in FLAC_FRAME.finditer(audio):
        yield found.start(), _flac_seconds(audio[found.start() : found.start() + 17], stated)


def _flac_seconds(header: bytes, stated_hertz: int) -> float:
    """The length of a frame; 0 where there is none. The slower of the rates of the file and the frame counts."""
    if len(header) < 17:
        header = header.ljust(17, b"\0")
    code, rate = header[2] >> 4, header[2] & 15
    place = 4 + max(8 - (header[4] ^ 0xFF).bit_length(), 1)
    size = {6: 1, 7: 2}.get(code, 0)
    samples = int.from_bytes(header[place : place + size]) + 1 if size else FLAC_SAMPLES.get(code, 0)
    place += size
    size, unit = FLAC_RATE_FIELDS.get(rate, (0, 0))
    own_hertz = int.from_bytes(header[place : place + size]) * unit if size else _at(FLAC_HERTZ, rate)
    place += size
    if _crc8(header[:place]) != header[place]:
        return 0.0
    return samples / min((hertz for hertz in (stated_hertz, own_hertz) if hertz), default=1)


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc


def ogg_packets(audio: bytes) -> Iterator[Frame]:
    """The packets of all streams, whatever codec they have. The first packet of a stream names its codec."""
    seconds_of: dict[bytes, Callable[[bytes], float]] = {}
    begun: dict[bytes, bytes] = {}
    place = 0
    while (place := audio.find(b"OggS", place)) >= 0 and place + 27 < len(audio):
        serial, count = audio[place + 14 : place + 18], audio[place + 26]
        if not audio[place + 5] & CONTINUED:
            begun.pop(serial, None)
        at, start = place + 27 + count, place + 27 + count
        for lacing in audio[place + 27 : place + 27 + count]:
            at += lacing
            if lacing == 255:
                continue
            packet = begun.pop(serial, b"") or audio[start : min(start + PACKET_HEAD, at)]
            start = at
            if packet[:8] == b"OpusHead" or packet[:7] == b"\x01vorbis":
                seconds_of[serial] = opus_seconds if packet[:1] == b"O" else _vorbis_seconds(packet)
            elif packet[:8] != b"OpusTags":
                yield place, seconds_of.get(serial, _unknown_seconds)(packet)
        if start < at:
            begun[serial] = audio[start : min(start + PACKET_HEAD, at)]
        place = max(at, place + 27)


def opus_seconds(packet: bytes) -> float:
    """The length of a packet of Opus, of which two bytes are enough."""
    if not packet:
        return 0.0
    frames = (1, 2, 2, packet[1] & 0x3F if len(packet) > 1 else 0)[packet[0] & 3]
    return frames * OPUS_MS[packet[0] >> 3] / 1000


def _vorbis_seconds(header: bytes) -> Callable[[bytes], float]:
    """Vorbis I, section 4.2.2: a packet adds at most half of a long block."""
    hertz, sizes = int.from_bytes(header[12:16], "little"), header[28] if len(header) > 28 else 0xFF
    seconds = (1 << (sizes >> 4)) / 2 / max(hertz, 1)
    return lambda packet: 0.0 if packet[:1] in VORBIS_HEADERS else seconds


def _unknown_seconds(packet: bytes) -> float:  # noqa: ARG001 - of a codec that is not known here
    return LONGEST_PACKET_SECONDS


def _at(values: Sequence[int], index: int) -> int:
    return values[index] if index < len(values) else 0
