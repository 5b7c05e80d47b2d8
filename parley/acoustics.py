"""Pitch, loudness and harmonicity of a speaker, measured on the sound of a recording. Only workers load this module.

A recording is measured in blocks, so that hours of it take little memory: what is kept of a block is a row of numbers
for each hundredth of a second. It is read twice: first for the loudness of each channel, which says where the speech of
the user is; then for the pitch and the harmonicity of that speech. Both are Praat's by autocorrelation (Boersma 1993),
computed by the library praatfan-rust, and take ten times as long as the rest.
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
PER_FRAME = round(STEP_SECONDS * RATE)
# Beside what is measured, so that its first and last frames are measured as if the sound was in one piece: what decides
# the path of a pitch, and more than half a window of harmonicity.
MARGIN_SECONDS, WINDOW_SECONDS = 0.5, 0.05
MARGIN = round(MARGIN_SECONDS * RATE)
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
class Loudness:
    """One channel in steps of `STEP_SECONDS`.

    level_db: of the mean square in 50 ms; 0 dB is that of a constant 1. clipped: samples at full scale, by frame.
    """

    level_db: Row
    clipped: Row


@dataclass(frozen=True)
class Periods:
    """How periodic a sound is, in the same steps. Where it was not measured, both are NaN.

    pitch_hz: NaN without a pitch. harmonicity_db: harmonics to noise; -200: none; NaN: as at an end, or without noise.
    """

    pitch_hz: Row
    harmonicity_db: Row


def _loudness_of(blocks: Iterable[Sound]) -> tuple[Loudness, ...]:
    """The loudness of each channel."""
    measured = [[_loudness(channel, first, last) for channel in samples] for samples, first, last in _whole(blocks)]
    return tuple(_joined(parts) for parts in zip(*measured, strict=True))


def _loudness(samples: Row, first: int, last: int) -> Loudness:
    """That of samples `first` to `last`; the others are margins."""
    own = samples[first:last]
    starts = np.arange(0, len(own), PER_FRAME)
    clipped = np.add.reduceat(np.abs(own) >= FULL_SCALE, starts, dtype=np.float32)
    return Loudness(level_db=_levels(samples, first, len(starts)), clipped=clipped)


def _joined(parts: Sequence[Loudness]) -> Loudness:
    return Loudness(*(np.concatenate([getattr(part, row) for part in parts]) for row in ("level_db", "clipped")))


def _periods_of(blocks: Iterable[Sound], channel: int, speech: Mask) -> Periods:
    """How periodic a channel is where there is speech: it is most of the work, and nothing else needs it.

    Harmonicity is measured only where there is a pitch.
    """
    found = Periods(*(np.full(len(speech), np.nan, dtype=np.float32) for _ in range(2)))
    at = 0
    for samples, first, last in _whole(blocks):
        place = slice(at, at + -(-(last - first) // PER_FRAME))
        sound = samples[channel].astype(np.float64)
        found.pitch_hz[place] = _measured(sound, first, speech[place], MARGIN_SECONDS, _pitch_of)
        voiced = np.isfinite(found.pitch_hz[place])
        found.harmonicity_db[place] = _measured(sound, first, voiced, WINDOW_SECONDS, _harmonicity_of)
        at = place.stop
    return found


def _measured(
    samples: NDArray[np.float64], first: int, wanted: Mask, margin_seconds: float, contour: Callable[[Any], Any]
) -> Row:
    """A contour of the frames that are wanted, which begin with sample `first`; NaN elsewhere."""
    row, margin = np.full(len(wanted), np.nan, dtype=np.float32), round(margin_seconds * RATE)
    for start, end in _runs(wanted, 2 * margin_seconds):
        begins = first + start * PER_FRAME
        piece = slice(max(begins - margin, 0), first + end * PER_FRAME + margin)
        sound = _praat().Sound(samples[piece], float(RATE))
        row[start:end] = _on_grid(contour(sound), (begins - piece.start) / RATE, end - start)
    return row


def _pitch_of(sound: Any) -> Any:
    floor, ceiling = PITCH_HZ
    return sound.to_pitch_ac(time_step=STEP_SECONDS, pitch_floor=floor, pitch_ceiling=ceiling)


def _harmonicity_of(sound: Any) -> Any:
    return sound.to_harmonicity_ac(time_step=STEP_SECONDS, **HARMONICITY)


def _runs(mask: Mask, apart_seconds: float) -> Iterator[tuple[int, int]]:
    """The first and the one after the last frame of each run; those that are closer to each other are one."""
    places = np.flatnonzero(mask)
    if not len(places):
        return
    gaps = np.flatnonzero(np.diff(places) > apart_seconds / STEP_SECONDS)
    yield from zip(places[np.r_[0, gaps + 1]].tolist(), (places[np.r_[gaps, -1]] + 1).tolist(), strict=True)


def _whole(blocks: Iterable[Sound]) -> Iterator[tuple[Row, int, int]]:
    """Each block with the ends of its neighbours, and the places of its own first sample and of the one after it.

    Each has whole frames, except the last one.
    """
    before: Row | None = None
    current: Row | None = None
    for block in chain(_in_frames(blocks), (None,)):
        if current is not None:
            before = current[:, :0] if before is None else before
            after = current[:, :0] if block is None else block[:, :MARGIN]
            yield np.concatenate((before, current, after), axis=1), before.shape[1], before.shape[1] + current.shape[1]
            before = current[:, -MARGIN:]
        current = block


def _in_frames(blocks: Iterable[Sound]) -> Iterator[Row]:
    """The blocks, cut to whole frames: what is left of one begins the next one."""
    rest: Row | None = None
    for sound in blocks:
        # Floats of a file may be no numbers.
        samples = np.nan_to_num(np.stack(sound.channels), nan=0.0, posinf=0.0, neginf=0.0)
        samples = samples if rest is None else np.concatenate((rest, samples), axis=1)
        whole = samples.shape[1] // PER_FRAME * PER_FRAME
        rest = samples[:, whole:]
        if whole:
            yield samples[:, :whole]
    if rest is not None and rest.shape[1]:
        yield rest


def _on_grid(contour: Any, start: float, count: int) -> Row:
    """A contour of the library as a row of frames that begins at `start` seconds."""
    row = np.full(count, np.nan, dtype=np.float32)
    # Not below its frame where rounding makes a middle fall short of it.
    places = np.floor((contour.xs() - start) / STEP_SECONDS + 1e-6).astype(int)
    inside = (places >= 0) & (places < count)
    row[places[inside]] = contour.values()[inside]
    return row


def _levels(samples: Row, first: int, count: int) -> Row:
    half = round(LEVEL_SECONDS * RATE / 2)
    energy = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    middles = first + PER_FRAME // 2 + np.arange(count) * PER_FRAME
    starts, ends = (np.clip(middles + side, 0, len(samples)) for side in (-half, half))
    mean = (energy[ends] - energy[starts]) / np.maximum(ends - starts, 1)
    return (10 * np.log10(np.maximum(mean, 1e-20))).astype(np.float32)


def own_channel(channels: Sequence[Loudness], own: Sequence[Stretch], others: Sequence[Stretch]) -> tuple[int, bool]:
    """The place of the channel on which a speaker is heard best, and whether that speaker has it alone.

    A channel is the speaker's own if the speaker's turns are louder there than those of others by `OWN_CHANNEL_DB`,
    and on no other channel: bleed from the others is quieter than they are on theirs.
    """
    contrasts = [_contrast(channel.level_db, own, others) for channel in channels]
    best = max(range(len(channels)), key=lambda number: contrasts[number])
    rest = [contrast for number, contrast in enumerate(contrasts) if number != best]
    return best, bool(rest) and contrasts[best] - max(rest) >= OWN_CHANNEL_DB


def _contrast(levels: Row, own: Sequence[Stretch], others: Sequence[Stretch]) -> float:
    """How much louder the speaker alone is than others alone."""
    inside, outside = _within(own, len(levels)), _within(others, len(levels))
    alone, beside = (_mean_level(levels[mask]) for mask in (inside & ~outside, outside & ~inside))
    return alone - beside


def _mean_level(levels: Row) -> float:
    return float(10 * np.log10(np.mean(10 ** (levels.astype(np.float64) / 10)))) if len(levels) else SILENCE_DB


def _within(stretches: Sequence[Stretch], count: int) -> Mask:
    """Which of so many frames have their middle in one of these stretches of time."""
    mask = np.zeros(count, dtype=bool)
    for start, end in stretches:
        first, last = (max(round(seconds / STEP_SECONDS), 0) for seconds in (start, end))
        mask[first:last] = True
    return mask


def measured(
    sound: Callable[[], Iterable[Sound]], own: Sequence[Stretch], others: Sequence[Stretch]
) -> tuple[Acoustics, Curves | None]:
    """The acoustics of a speaker's own speech, and its curves; None: nothing of it is heard.

    Args:
        sound: gives the recording from its beginning, in pieces of `RATE` samples a second.
        own: when the speaker speaks, in seconds.
        others: when others do. Where both speak, only a channel of the speaker's own is measured.
    """
    channels = _loudness_of(sound())
    place, alone = own_channel(channels, own, others)
    loudness = channels[place]
    mask = _within(own, len(loudness.level_db))
    speech = _gated(loudness.level_db, mask if alone else mask & ~_within(others, len(mask)))
    if not speech.any():
        return Acoustics(not_measured=dict.fromkeys(("pitch", "loudness", "harmonics_to_noise"), SILENT)), None
    periods = _periods_of(sound(), place, speech)
    # Without the second measure the library finds a pitch in noise.
    pitch = np.where(speech & ~(periods.harmonicity_db < VOICED_DB), periods.pitch_hz, np.nan)
    pitch = np.where(_is_plausible(pitch), pitch, np.nan)
    harmonicity = periods.harmonicity_db[np.isfinite(pitch) & np.isfinite(periods.harmonicity_db)]
    return _acoustics(loudness, speech, pitch, harmonicity), _curves(loudness.level_db, speech, pitch)


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


def _acoustics(loudness: Loudness, speech: Mask, pitch: Row, harmonicity: Row) -> Acoustics:
    """`harmonicity`: of the frames with a pitch, where it could be measured."""
    voiced = np.isfinite(pitch)
    seconds, voiced_seconds = (float(mask.sum()) * STEP_SECONDS for mask in (speech, voiced))
    too_short = f"the user is heard for {seconds:.1f} s; {LEAST_SPEECH_SECONDS:g} s are needed"
    unvoiced = f"the user's speech has a pitch for {voiced_seconds:.1f} s; {LEAST_VOICED_SECONDS:g} s are needed"
    has_loudness, has_pitch = seconds >= LEAST_SPEECH_SECONDS, voiced_seconds >= LEAST_VOICED_SECONDS
    has_harmonics = has_pitch and len(harmonicity) * STEP_SECONDS >= LEAST_VOICED_SECONDS
    known = {"pitch": has_pitch, "loudness": has_loudness, "harmonics_to_noise": has_harmonics}
    reasons = {"pitch": unvoiced, "loudness": too_short, "harmonics_to_noise": NO_NOISE if has_pitch else unvoiced}
    return Acoustics(
        speech_seconds=round(seconds, 2),
        voiced_seconds=round(voiced_seconds, 2),
        clipped_share=round(float(loudness.clipped[speech].sum()) / (speech.sum() * PER_FRAME), 5),
        not_measured={name: reasons[name] for name, is_known in known.items() if not is_known},
        **(_pitch(pitch[voiced]) if has_pitch else {}),
        **(_levels_of_speech(loudness.level_db, speech) if has_loudness else {}),
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


def _levels_of_speech(levels: Row, speech: Mask) -> dict[str, float]:
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


def _curves(levels: Row, speech: Mask, pitch: Row) -> Curves:
    """Points of at least `LEAST_POINT_SECONDS`, each with the median pitch and the mean level of its frames."""
    count = len(speech)
    frames_per_point = max(round(LEAST_POINT_SECONDS / STEP_SECONDS), -(-count // MOST_POINTS))
    places = [slice(at, at + frames_per_point) for at in range(0, count, frames_per_point)]
    return Curves(
        step_seconds=round(frames_per_point * STEP_SECONDS, 3),
        pitch_hz=tuple(_point(pitch[place][np.isfinite(pitch[place])], np.median) for place in places),
        loudness_db=tuple(_point(levels[place][speech[place]], _mean_level) for place in places),
    )


def _point(values: Row, summary: Callable[[Row], Any]) -> float | None:
    return round(float(summary(values)), 1) if len(values) else None


def _praat() -> Any:
    """The library, on one thread: the number of measurements at a time is the worker's to decide."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    import praatfan_rust  # noqa: PLC0415 - its threads are counted when it first works

    return praatfan_rust
