"""Pitch, loudness and harmonicity of a speaker, measured on the sound of a recording. Only workers load this module.

A recording is measured in blocks, so that hours of it take little memory: what is kept of a block is a row of numbers
for each hundredth of a second (`Frames`). Pitch and harmonicity are Praat's by autocorrelation (Boersma 1993), computed
by the library praatfan-rust.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parley.audio import Sound
from parley.domain.speaking import Stretch
from parley.domain.voice_metrics import MOST_POINTS, Acoustics, Curves

Row = NDArray[np.float32]
Mask = NDArray[np.bool_]

RATE = 16_000  # samples a second: speech has its pitch and its harmonics below half of it
STEP_SECONDS = 0.01
BLOCK_SECONDS = 60.0
# Neighbours of a block, so that its first and last frames are measured as if the sound was in one piece.
MARGIN_SECONDS = 0.5
# What a speaking voice can have, and what a window of three periods of the lowest pitch can tell.
PITCH_HZ = (60.0, 500.0)
LEVEL_SECONDS = 0.05  # three periods of the lowest pitch
MOMENT_SECONDS = 0.4  # the moment of ITU-R BS.1770's momentary loudness
# Praat's for this method; and its threshold of voicing, a correlation of 0.45, as harmonics to noise.
HARMONICITY = {"minimum_pitch": PITCH_HZ[0], "silence_threshold": 0.1, "periods_per_window": 4.5}
VOICED_DB = -0.87
# Gates as in ITU-R BS.1770: what is silent, or much quieter than the rest, is not speech of this speaker.
SILENCE_DB, GATE_DB = -70.0, -20.0
FULL_SCALE = 0.999
# De Looze and Hirst (2008): a speaker's range by the quartiles. The second factor is theirs for expressive speech.
RANGE_OF_QUARTILES = (0.75, 2.5)
# An octave error is twelve semitones off. Speech does not move by nine within half a second.
OCTAVE_ERROR_SEMITONES, NEIGHBOURHOOD_FRAMES = 9.0, 101
LEAST_SPEECH_SECONDS = LEAST_VOICED_SECONDS = 0.5
# How much louder the user's turns than those of others are on a channel that is the user's own.
OWN_CHANNEL_DB = 6.0
LEAST_POINT_SECONDS = 0.1
ONE_DEVIATION = (15.866, 84.134)  # percentiles: one standard deviation on each side of the mean of normal values
MEDIANS_AT_ONCE = 10_000
SILENT = "the user is not heard: the recording is silent where the transcript has the user's turns"
NO_NOISE = "the voice has too little noise to measure"


@dataclass(frozen=True)
class Frames:
    """One channel in steps of `STEP_SECONDS`. A frame without pitch has NaN there.

    harmonicity_db: harmonics to noise; -200: none; NaN: not measured, as at an end, or without noise.

    level_db: of the mean square in 50 ms; 0 dB is that of a constant 1. clipped: samples at full scale, by frame.
    """

    pitch_hz: Row
    level_db: Row
    harmonicity_db: Row
    clipped: Row


def frames_of(blocks: Iterable[Sound]) -> tuple[Frames, ...]:
    """Measure each channel of a recording, whose pieces come one after the other at `RATE` samples a second."""
    measured = [
        [_frames(channel, first, last) for channel in samples] for samples, first, last in _with_margins(blocks)
    ]
    return tuple(_joined(parts) for parts in zip(*measured, strict=True))


def _with_margins(blocks: Iterable[Sound]) -> Iterator[tuple[Row, int, int]]:
    """Each block with the ends of its neighbours, and the places of its own first sample and of the one after it."""
    margin = round(MARGIN_SECONDS * RATE)
    before: Row | None = None
    current: Row | None = None
    for block in chain((np.stack(sound.channels) for sound in blocks), (None,)):
        if current is not None:
            before = current[:, :0] if before is None else before
            after = current[:, :0] if block is None else block[:, :margin]
            yield np.concatenate((before, current, after), axis=1), before.shape[1], before.shape[1] + current.shape[1]
            before = current[:, -margin:]
        current = block


def _frames(samples: Row, first: int, last: int) -> Frames:
    """The frames of samples `first` to `last`; the others are margins."""
    samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)  # floats of a file may be no numbers
    per_frame = round(STEP_SECONDS * RATE)
    count = -(-(last - first) // per_frame)
    sound = _praat().Sound(samples.astype(np.float64), float(RATE))
    floor, ceiling = PITCH_HZ
    pitch = sound.to_pitch_ac(time_step=STEP_SECONDS, pitch_floor=floor, pitch_ceiling=ceiling)
    harmonicity = sound.to_harmonicity_ac(time_step=STEP_SECONDS, **HARMONICITY)
    place = first / RATE
    own = samples[first:last]
    clipped = np.add.reduceat(np.abs(own) >= FULL_SCALE, np.arange(0, len(own), per_frame), dtype=np.float32)
    return Frames(
        pitch_hz=_on_grid(pitch, place, count, np.nan),
        level_db=_levels(samples, first, count),
        harmonicity_db=_on_grid(harmonicity, place, count, np.nan),
        clipped=clipped,
    )


def _on_grid(contour: Any, start: float, count: int, missing: float) -> Row:
    """A contour of the library as a row of frames that begins at `start` seconds."""
    row = np.full(count, missing, dtype=np.float32)
    places = np.floor((contour.xs() - start) / STEP_SECONDS).astype(int)
    inside = (places >= 0) & (places < count)
    row[places[inside]] = contour.values()[inside]
    return row


def _levels(samples: Row, first: int, count: int) -> Row:
    per_frame, half = round(STEP_SECONDS * RATE), round(LEVEL_SECONDS * RATE / 2)
    energy = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    middles = first + per_frame // 2 + np.arange(count) * per_frame
    starts, ends = (np.clip(middles + side, 0, len(samples)) for side in (-half, half))
    mean = (energy[ends] - energy[starts]) / np.maximum(ends - starts, 1)
    return (10 * np.log10(np.maximum(mean, 1e-20))).astype(np.float32)


def _joined(parts: Sequence[Frames]) -> Frames:
    rows = ("pitch_hz", "level_db", "harmonicity_db", "clipped")
    return Frames(**{row: np.concatenate([getattr(part, row) for part in parts]) for row in rows})


def own_channel(channels: Sequence[Frames], own: Sequence[Stretch], others: Sequence[Stretch]) -> tuple[Frames, bool]:
    """The channel on which a speaker is heard best, and whether that speaker has it alone.

    A channel is the speaker's own if the speaker's turns are louder there than those of others by `OWN_CHANNEL_DB`,
    and on no other channel: bleed from the others is quieter than they are on theirs.
    """
    contrasts = [_contrast(frames, own, others) for frames in channels]
    best = max(range(len(channels)), key=lambda number: contrasts[number])
    rest = [contrast for number, contrast in enumerate(contrasts) if number != best]
    return channels[best], bool(rest) and contrasts[best] - max(rest) >= OWN_CHANNEL_DB


def _contrast(frames: Frames, own: Sequence[Stretch], others: Sequence[Stretch]) -> float:
    """How much louder the speaker alone is than others alone."""
    inside, outside = _within(own, frames), _within(others, frames)
    levels = [_mean_level(frames.level_db[mask]) for mask in (inside & ~outside, outside & ~inside)]
    return levels[0] - levels[1]


def _mean_level(levels: Row) -> float:
    return float(10 * np.log10(np.mean(10 ** (levels.astype(np.float64) / 10)))) if len(levels) else SILENCE_DB


def _within(stretches: Sequence[Stretch], frames: Frames) -> Mask:
    """Which frames have their middle in one of these stretches of time."""
    mask = np.zeros(len(frames.level_db), dtype=bool)
    for start, end in stretches:
        first, last = (max(round(seconds / STEP_SECONDS), 0) for seconds in (start, end))
        mask[first:last] = True
    return mask


def measured(
    channels: Sequence[Frames], own: Sequence[Stretch], others: Sequence[Stretch]
) -> tuple[Acoustics, Curves | None]:
    """The acoustics of a speaker's own speech, and its curves; None: nothing of it is heard.

    Args:
        channels: the frames of the recording.
        own: when the speaker speaks, in seconds.
        others: when others do. Where both speak, only a channel of the speaker's own is measured.
    """
    frames, alone = own_channel(channels, own, others)
    mask = _within(own, frames)
    speech = _gated(frames.level_db, mask if alone else mask & ~_within(others, frames))
    # Without the second measure the library finds a pitch in noise.
    pitch = np.where(speech & ~(frames.harmonicity_db < VOICED_DB), frames.pitch_hz, np.nan)
    pitch = np.where(_is_plausible(pitch), pitch, np.nan)
    return _acoustics(frames, speech, pitch), _curves(frames, speech, pitch) if speech.any() else None


def _gated(levels: Row, mask: Mask) -> Mask:
    """The frames of speech: those that are neither silent nor much quieter than the rest."""
    audible = mask & (levels > SILENCE_DB)
    return audible & (levels > _mean_level(levels[audible]) + GATE_DB)


def _is_plausible(pitch: Row) -> Mask:
    """Which frames have a pitch within the speaker's range, without octave errors."""
    voiced = np.flatnonzero(np.isfinite(pitch))
    plausible = np.zeros(len(pitch), dtype=bool)
    if len(voiced):
        hertz = pitch[voiced]
        low, high = np.percentile(hertz, (25, 75)) * RANGE_OF_QUARTILES
        semitones = 12 * np.log2(hertz)
        near = np.abs(semitones - _running_median(semitones)) < OCTAVE_ERROR_SEMITONES
        plausible[voiced] = (hertz >= low) & (hertz <= high) & near
    return plausible


def _running_median(values: Row) -> Row:
    """The median of the values around each, in pieces that need little memory."""
    half = NEIGHBOURHOOD_FRAMES // 2
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(values, half, constant_values=np.median(values)), NEIGHBOURHOOD_FRAMES
    )
    pieces = range(0, len(around), MEDIANS_AT_ONCE)
    return np.concatenate([np.median(around[at : at + MEDIANS_AT_ONCE], axis=1) for at in pieces])


def _acoustics(frames: Frames, speech: Mask, pitch: Row) -> Acoustics:
    voiced = np.isfinite(pitch)
    seconds, voiced_seconds = (float(mask.sum()) * STEP_SECONDS for mask in (speech, voiced))
    if not seconds:
        return Acoustics(not_measured=dict.fromkeys(("pitch", "loudness", "harmonics_to_noise"), SILENT))
    too_short = f"the user is heard for {seconds:.1f} s; {LEAST_SPEECH_SECONDS:g} s are needed"
    unvoiced = f"the user's speech has a pitch for {voiced_seconds:.1f} s; {LEAST_VOICED_SECONDS:g} s are needed"
    harmonicity = frames.harmonicity_db[voiced & np.isfinite(frames.harmonicity_db)]
    has_loudness, has_pitch = seconds >= LEAST_SPEECH_SECONDS, voiced_seconds >= LEAST_VOICED_SECONDS
    has_harmonics = has_pitch and len(harmonicity) * STEP_SECONDS >= LEAST_VOICED_SECONDS
    known = {"pitch": has_pitch, "loudness": has_loudness, "harmonics_to_noise": has_harmonics}
    reasons = {"pitch": unvoiced, "loudness": too_short, "harmonics_to_noise": NO_NOISE if has_pitch else unvoiced}
    return Acoustics(
        speech_seconds=round(seconds, 2),
        voiced_seconds=round(voiced_seconds, 2),
        clipped_share=round(float(frames.clipped[speech].sum()) / (speech.sum() * STEP_SECONDS * RATE), 5),
        not_measured={name: reasons[name] for name, is_known in known.items() if not is_known},
        **(_pitch(pitch[voiced]) if has_pitch else {}),
        **(_loudness(frames.level_db, speech) if has_loudness else {}),
        **({"harmonics_to_noise_db": round(float(np.median(harmonicity)), 2)} if has_harmonics else {}),
    )


def _pitch(hertz: Row) -> dict[str, float]:
    semitones = 12 * np.log2(hertz.astype(np.float64))
    lowest, low, high, highest = np.percentile(semitones, (5, *ONE_DEVIATION, 95))
    return {
        "pitch_median_hz": round(float(np.median(hertz)), 2),
        "pitch_variation_semitones": round(float(high - low) / 2, 3),
        "pitch_range_semitones": round(float(highest - lowest), 3),
    }


def _loudness(levels: Row, speech: Mask) -> dict[str, float]:
    deviation = float(np.std(_momentary(levels, speech)))
    return {"loudness_db": round(_mean_level(levels[speech]), 2), "loudness_variation_db": round(deviation, 3)}


def _momentary(levels: Row, speech: Mask) -> NDArray[np.float64]:
    """The level of the speech within `MOMENT_SECONDS` around each of its frames, where at least half is speech.

    Within less, levels differ between sounds, as vowels and consonants do, and not by how someone speaks.
    """
    half = round(MOMENT_SECONDS / STEP_SECONDS / 2)
    frames = np.arange(len(levels))
    starts, ends = (np.clip(frames + side, 0, len(levels)) for side in (-half, half))
    energy, count = (
        np.concatenate(([0.0], np.cumsum(values)))
        for values in (np.where(speech, 10 ** (levels.astype(np.float64) / 10), 0.0), speech.astype(np.float64))
    )
    spoken = count[ends] - count[starts]
    whole = speech & (spoken >= half)
    return 10 * np.log10((energy[ends] - energy[starts])[whole] / spoken[whole])


def _curves(frames: Frames, speech: Mask, pitch: Row) -> Curves:
    """Points of at least `LEAST_POINT_SECONDS`, each with the median pitch and the mean level of its frames."""
    count = len(speech)
    frames_per_point = max(round(LEAST_POINT_SECONDS / STEP_SECONDS), -(-count // MOST_POINTS))
    places = [slice(at, at + frames_per_point) for at in range(0, count, frames_per_point)]
    return Curves(
        step_seconds=round(frames_per_point * STEP_SECONDS, 3),
        pitch_hz=tuple(_point(pitch[place][np.isfinite(pitch[place])], np.median) for place in places),
        loudness_db=tuple(_point(frames.level_db[place][speech[place]], _mean_level) for place in places),
    )


def _point(values: Row, summary: Callable[[Row], Any]) -> float | None:
    return round(float(summary(values)), 1) if len(values) else None


def _praat() -> Any:
    """The library, on one thread: the number of measurements at a time is the worker's to decide."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    import praatfan_rust  # noqa: PLC0415 - its threads are counted when it first works

    return praatfan_rust
