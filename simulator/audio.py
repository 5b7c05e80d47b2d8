"""Where in a recording somebody speaks, from its loudness alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import miniaudio

RATE = 8000
FRAME = RATE * 3 // 100  # 30 ms
QUIET = 200.0  # of 32767: what is softer than this is silence in any recording
CONTRAST = 3.0  # speech is at least this much louder than the pauses around it
MAX_PAUSE, MIN_SPEECH = 0.3, 0.15


class Undecodable(Exception):
    """The bytes are no audio that can be played."""


@dataclass(frozen=True)
class Segment:
    start: float
    end: float


@dataclass(frozen=True)
class Activity:
    seconds: float
    segments: tuple[Segment, ...]


def activity(data: bytes) -> Activity:
    """Decode wav, mp3, flac or ogg and find the stretches of speech."""
    levels: list[float] = []
    samples = 0
    for block in _blocks(data):
        samples += len(block)
        levels.extend(_levels(block))
    if not samples:
        raise Undecodable("no samples")
    return Activity(round(samples / RATE, 3), tuple(_segments(levels)))


def _blocks(data: bytes) -> Iterator[Sequence[int]]:
    """Mono samples, ten seconds at a time, so that a long recording is never held whole."""
    try:
        yield from miniaudio.stream_memory(data, nchannels=1, sample_rate=RATE, frames_to_read=FRAME * 333)
    except miniaudio.MiniaudioError as problem:
        raise Undecodable(str(problem)) from problem


def _levels(block: Sequence[int]) -> Iterator[float]:
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
