"""A recording as small as a page can carry: speech in Opus, which every browser plays."""

from __future__ import annotations

from io import BytesIO

# What Opus calls wide band, and the bits a second between which speech is good and still understood.
RATE = 16_000
BEST_BITS, LEAST_BITS = 24_000, 8_000
# Of the size, what the container takes.
CONTAINER = 0.1
# 0 to 10: less CPU, or a better sound.
EFFORT = "0"


def smaller(audio: bytes, seconds: float, most_bytes: int) -> bytes | None:
    """The recording as one channel of Opus in WebM.

    Args:
        audio: the recording.
        seconds: how long it is.
        most_bytes: how large it may become. The longer the recording, the fewer bits a second has.

    Returns:
        None where it is too long for that size (two hours in 8 MB), or where FFmpeg (the extra `acoustics`) is missing.

    Raises:
        InvalidInput: it cannot be decoded.
    """
    bits = min(BEST_BITS, int(most_bytes * 8 * (1 - CONTAINER) / seconds))
    if bits < LEAST_BITS:
        return None
    try:
        import av  # noqa: PLC0415, F401 - loaded only where a recording is too large
    except ImportError:
        return None
    made = _encoded(audio, bits)
    return made if len(made) <= most_bytes else None


def _encoded(audio: bytes, bits: int) -> bytes:
    import av  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    from parley.audio import decode_blocks  # noqa: PLC0415

    made, at = BytesIO(), 0
    with av.open(made, "w", format="webm") as file:
        options = {"b": str(bits), "application": "voip", "compression_level": EFFORT, "frame_duration": "60"}
        stream = file.add_stream("libopus", rate=RATE, options=options, layout="mono")
        for block in decode_blocks(audio, rate=RATE):
            samples = np.ascontiguousarray(block.mixed()[np.newaxis, :])
            frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
            frame.sample_rate, frame.pts = RATE, at
            at += samples.shape[1]
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return made.getvalue()
