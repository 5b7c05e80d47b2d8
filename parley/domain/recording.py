"""The length of a recording by its bytes, where its header may claim less than there is."""

import struct

# Codecs of WAV with a fixed size for each sample: PCM, floats, A-law, mu-law, and the extensible header of these.
FIXED_SIZE_CODECS = frozenset({0x0001, 0x0003, 0x0006, 0x0007, 0xFFFE})


def seconds_by_size(audio: bytes) -> float:
    """How long uncompressed audio would be if all of its bytes were sound, in seconds; 0 for any other format.

    A vendor that ignores the lengths in a WAV file's header transcribes, and bills, what is there.
    """
    if audio[:4] not in (b"RIFF", b"RIFX", b"RF64") or audio[8:12] != b"WAVE":
        return 0.0
    order = ">" if audio[:4] == b"RIFX" else "<"
    place = audio.find(b"fmt ", 12)
    if place < 0 or len(audio) < place + 24:
        return 0.0
    codec, _, sample_rate, _, frame_bytes = struct.unpack_from(f"{order}HHIIH", audio, place + 8)
    if codec not in FIXED_SIZE_CODECS or not sample_rate or not frame_bytes:
        return 0.0
    return len(audio) / (sample_rate * frame_bytes)
