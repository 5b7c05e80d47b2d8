"""Finds speech in a recording by its loudness."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import miniaudio

RATE = 8000  # samples per second
FRAME = RATE * 3 // 100  # 30 ms
QUIET = 200.0  # of 32767: anything softer is silence in every recording
CONTRAST = 3.0  # speech is at least this many times louder than the pauses around it
MAX_PAUSE, MIN_SPEECH = 0.3, 0.15  # seconds


class Undecodable(Exception):
    """The bytes are not audio that can be decoded."""


@dataclass(frozen=True)
class Segment:
    """A stretch of speech, in seconds from the start."""

    start: float
    end: float


@dataclass(frozen=True)
class Activity:
    seconds: float
    segments: tuple[Segment, ...]


def channels(data: bytes) -> int:
    """How many channels a recording has.

    Raises:
        Undecodable: the bytes are not audio that can be decoded.
    """
    for read in (miniaudio.wav_get_info, miniaudio.flac_get_info, miniaudio.vorbis_get_info, miniaudio.mp3_get_info):
        try:
            return read(data).nchannels
        except miniaudio.DecodeError:
            continue
    raise Undecodable("no channels")


def activity(data: bytes, channel: int | None = None) -> Activity:
    """Decode wav, mp3, flac or ogg and find the stretches of speech.

    Args:
        data: the recording.
        channel: the number of the channel, from 0; None: all channels as one.

    Raises:
        Undecodable: the bytes are not audio in one of these formats.
    """
    levels: list[float] = []
    samples = 0
    for block in _blocks(data) if channel is None else _channel_blocks(data, channel):
        samples += len(block)
        levels.extend(_levels(block))
    if not samples:
        raise Undecodable("no samples")
    return Activity(round(samples / RATE, 3), tuple(_segments(levels)))


def _channel_blocks(data: bytes, channel: int) -> Iterator[Sequence[int]]:
    count = channels(data)
    yield from (block[channel::count] for block in _blocks(data, count))


def _blocks(data: bytes, count: int = 1) -> Iterator[Sequence[int]]:
    """Yield the samples of so many channels, ten seconds at a time: a long recording is never in memory as a whole."""
    try:
        yield from miniaudio.stream_memory(data, nchannels=count, sample_rate=RATE, frames_to_read=FRAME * 333)
    except miniaudio.MiniaudioError as problem:
        raise Undecodable(str(problem)) from problem


def _levels(block: Sequence[int]) -> Iterator[float]:
    """Yield the root mean square of each frame."""
    for at in range(0, len(block), FRAME):
        frame = block[at : at + FRAME]
        yield sqrt(sum(sample * sample for sample in frame) / len(frame))


def _segments(levels: list[float]) -> Iterator[Segment]:
    ranked = sorted(levels)
    floor, peak = ranked[len(ranked) // 10], ranked[len(ranked) * 19 // 20]
    if peak < QUIET or peak < CONTRAST * floor:
        return  # silence, or a steady hum
    threshold = max(QUIET, 2 * floor, peak / 10)
    start = end = -1.0
    for number, level in enumerate([*levels, 0.0]):
        at = number * FRAME / RATE
        if level >= threshold and start < 0:
            start = at
        if level >= threshold:
            end = at + FRAME / RATE
        is_over = start >= 0 and (at - end >= MAX_PAUSE or number == len(levels))
        if is_over and end - start >= MIN_SPEECH:
            yield Segment(round(start, 3), round(end, 3))
        if is_over:
            start = -1.0
