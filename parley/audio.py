"""Decode a recording into samples. Only workers decode; this module and FFmpeg are loaded when one first does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

from parley.domain.errors import InvalidInput
from parley.domain.recording import container, with_true_length
from parley.domain.session import MAX_SESSION_SECONDS

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Samples = NDArray[numpy.float32]

FORMATS = "use a WAV, MP3, OGG, FLAC, M4A or WebM file"
# FFmpeg's names where they differ from the container's.
DEMUXERS = {"mp4": "mov", "matroska": "matroska"}
MOST_CHANNELS = 8
BLOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Sound:
    """Decoded sound. `rate`: samples a second; `channels`: for each channel its samples, from -1 to 1, equally many."""

    rate: int
    channels: tuple[Samples, ...]

    @property
    def seconds(self) -> float:
        return len(self.channels[0]) / self.rate

    def mixed(self) -> Samples:
        """All channels as one: their mean."""
        return cast("Samples", sum(self.channels) / len(self.channels))


def decode(audio: bytes, *, rate: int | None = None) -> Sound:
    """Decode a recording: WAV, AIFF, MP3, AAC, OGG, FLAC, M4A or WebM, with the length that its bytes have.

    What cannot be decoded within it is left out, so that a truncated recording ends early.

    Args:
        audio: the recording's bytes.
        rate: samples a second of the result; None: those of the recording.

    Raises:
        InvalidInput: it is not a recording in one of these formats, has no sound, or is longer than a session can be.
    """
    import numpy as np  # noqa: PLC0415

    blocks = list(decode_blocks(audio, rate=rate))
    channels = zip(*(block.channels for block in blocks), strict=True)
    return Sound(blocks[0].rate, tuple(np.concatenate(parts) for parts in channels))


def decode_blocks(audio: bytes, *, rate: int | None = None) -> Iterator[Sound]:
    """Decode a recording as `decode` does, in pieces of `BLOCK_SECONDS`, so that hours of it take little memory.

    The last piece may be shorter. Errors are raised where the pieces are read.
    """
    with _opened(audio) as file:
        empty = True
        for block in _blocks(file, rate or file.streams.audio[0].codec_context.sample_rate):
            yield block
            empty = False
    if empty:
        raise InvalidInput(f"has no sound that can be decoded; {FORMATS}", where="recording")


def channel_count(audio: bytes) -> int:
    """How many channels a recording has, by its headers and its first packets.

    Raises:
        InvalidInput: it is not a recording that can be decoded.
    """
    with _opened(audio) as file:
        return int(file.streams.audio[0].codec_context.channels)


@contextmanager
def _opened(audio: bytes) -> Iterator[Any]:
    """The recording as a file of FFmpeg's, which has sound. FFmpeg's errors within become `InvalidInput`."""
    import av  # noqa: PLC0415 - FFmpeg is loaded only where sound is decoded
    from av.error import FFmpegError  # noqa: PLC0415

    name = container(audio)
    if not name:
        raise InvalidInput(f"is not audio that can be decoded: {FORMATS}", where="recording")
    try:
        with av.open(BytesIO(with_true_length(audio)), format=DEMUXERS.get(name, name)) as file:
            if not file.streams.audio:
                raise InvalidInput("has no sound: it has no audio track", where="recording")
            yield file
    except (FFmpegError, ValueError) as error:
        raise InvalidInput(f"cannot be decoded: {error}; {FORMATS}", where="recording") from None


def _blocks(file: Any, rate: int) -> Iterator[Sound]:
    import av  # noqa: PLC0415

    count, waiting = round(BLOCK_SECONDS * rate), av.AudioFifo()
    for frame in _frames(file, rate):
        frame.pts = None
        waiting.write(frame)
        if waiting.samples >= count:
            yield _sound(waiting.read(count), rate)
    if waiting.samples:
        yield _sound(waiting.read(), rate)


def _sound(frame: Any, rate: int) -> Sound:
    return Sound(rate, tuple(frame.to_ndarray()))


def _frames(file: Any, rate: int) -> Iterator[Any]:
    """Frames of 32-bit floats, one plane a channel.

    Raises:
        InvalidInput: there are too many channels or seconds.
    """
    import av  # noqa: PLC0415

    stream = file.streams.audio[0]
    if (count := stream.codec_context.channels) > MOST_CHANNELS:
        raise InvalidInput(f"has {count} channels, more than {MOST_CHANNELS}", where="recording")
    resampler = av.AudioResampler(format="fltp", rate=rate)
    seconds = 0.0
    for frame in _decoded(file, stream):
        seconds += frame.samples / frame.sample_rate
        if seconds > MAX_SESSION_SECONDS:
            raise InvalidInput(f"is longer than {MAX_SESSION_SECONDS / 3600:g} hours", where="recording")
        frame.pts = None  # Gaps and jumps of the file's clock are not sound.
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


def _decoded(file: Any, stream: Any) -> Iterator[Any]:
    """The frames of a stream, without the packets that cannot be decoded: a truncated file ends in one."""
    from av.error import EOFError as EndOfFile  # noqa: PLC0415
    from av.error import InvalidDataError  # noqa: PLC0415

    packets = file.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = packet.decode()
        except (InvalidDataError, EndOfFile):
            continue
        yield from frames
