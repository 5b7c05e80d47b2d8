"""The media type of a recording, by its first bytes."""

SIGNATURES = (
    (0, b"RIFF", "audio/wav"),
    (0, b"RF64", "audio/wav"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (4, b"ftyp", "audio/mp4"),
    (0, b"\x1aE\xdf\xa3", "audio/webm"),
)


def media_type(audio: bytes) -> str:
    """The media type; `application/octet-stream` for what no browser plays."""
    for place, signature, kind in SIGNATURES:
        if audio[place : place + len(signature)] == signature:
            return kind
    # The sync word of an MPEG audio frame.
    is_mpeg = len(audio) > 1 and audio[0] == 0xFF and audio[1] & 0xE0 == 0xE0
    return "audio/mpeg" if is_mpeg else "application/octet-stream"
