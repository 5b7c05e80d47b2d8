"""Recordings that tests make: tones with known places, encoded by FFmpeg in every format."""

import struct
from io import BytesIO

import av
import numpy as np

# Container and codec by the name of the format.
CODECS = {
    "wav": ("wav", "pcm_s16le"),
    "mp3": ("mp3", "libmp3lame"),
    "ogg": ("ogg", "libopus"),
    "flac": ("flac", "flac"),
    "m4a": ("mp4", "aac"),
    "webm": ("webm", "libopus"),
}


def tone(seconds: float, *, rate: int = 16_000, hertz: float = 440.0, level: float = 0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encode(*channels, rate: int = 16_000, form: str = "wav") -> bytes:
    """Channels of samples from -1 to 1 as a file."""
    name, codec = CODECS[form]
    layout = "mono" if len(channels) == 1 else "stereo"
    buffer = BytesIO()
    with av.open(buffer, "w", format=name) as file:
        stream = file.add_stream(codec, rate=48_000 if codec == "libopus" else rate, layout=layout)
        samples = (np.stack(channels).clip(-1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="s16", layout=layout)
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return buffer.getvalue()


def wav(sound: bytes, *, codec: int = 1, rate: int = 8_000, channels: int = 1, bits: int = 16, size: int | None = None):
    """A WAV file whose header claims a size."""
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", codec, channels, rate, rate * frame, frame, bits)
    claimed = len(sound) if size is None else size
    return (
        b"RIFF"
        + struct.pack("<I", min(claimed + 36, 2**32 - 1))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", claimed)
        + sound
    )
