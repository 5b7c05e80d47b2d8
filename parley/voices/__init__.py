"""Which of the voices on a channel says each word: vectors of a model of voices, in groups.

The model is that of Resemblyzer (Apache-2.0), in `model.onnx`; `tools/voice_model.py` makes the file. It knows no
language and no person. A sentence, which a pause ends too, is one speaker's; its vector is the mean over windows of
1.6 s. The vectors are grouped by two-means, each group again, and groups that are as alike as sentences of one person
are one speaker: one who is not there would be worse than two who are not separated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parley.domain.requests import SpokenWord
from parley.domain.speaking import SENTENCE_ENDS
from parley.onnx import disable_telemetry

if TYPE_CHECKING:
    from parley.audio import Samples

MODEL = Path(__file__).with_name("model.onnx")
RATE = 16_000
# What the model was trained on: power in 40 bands of mel, over 25 ms in steps of 10 ms, of windows of 1.6 s.
FRAME, STEP, BANDS, WINDOW = 400, 160, 40, 160
LEVEL = 10 ** (-30 / 20)
# Windows of a sentence overlap by half. A long sentence is known by some of them.
HOP, MOST_WINDOWS, WINDOWS_AT_ONCE = 80, 12, 64
# Sentences of two speakers are seldom closer to each other than this.
PAUSE_SECONDS = 0.25
# A shorter sentence has no whole window: it is given to a group, but does not decide what the groups are.
LONG_SECONDS = WINDOW * STEP / RATE
# Two speakers: the long sentences of both are less alike than this (the mean of their cosines), and each speaks for so
# long and so often. A voice that changes once, as after a greeting, is one. Of the voices that this was set with
# (`benchmarks/voices.py`, and four of flite), one has at least 0.80, two at most 0.69, and by telephone 0.76.
MOST_ALIKE, LEAST_SECONDS, LEAST_TURNS = 0.77, 3.0, 2
# More are not looked for: each group is divided into two, and again.
MOST_SPEAKERS = 8
ROUNDS = 20
LABEL = "speaker {}"


class Voices:
    """The sentences of one channel, which comes in pieces."""

    def __init__(self) -> None:
        self._sentences: list[list[SpokenWord]] = []
        self._vectors: list[Any] = []

    def hear(self, samples: Samples, words: Sequence[SpokenWord], *, start: float) -> None:
        """Take the words of a piece that starts at so many seconds."""
        sentences = _sentences(words)
        self._sentences += sentences
        self._vectors += vectors([_of_sentence(samples, sentence, start) for sentence in sentences])

    def named(self) -> list[SpokenWord]:
        """All words with their speakers, who are numbered in the order in which they first speak."""
        seconds = [sentence[-1].end - sentence[0].start for sentence in self._sentences]
        groups = voice_groups(self._vectors, seconds)
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups), start=1)}
        return [
            word.model_copy(update={"speaker": LABEL.format(numbers[group])})
            for sentence, group in zip(self._sentences, groups, strict=True)
            for word in sentence
        ]


def _sentences(words: Sequence[SpokenWord]) -> list[list[SpokenWord]]:
    sentences: list[list[SpokenWord]] = []
    for word in words:
        if sentences and not _ends(sentences[-1][-1], word):
            sentences[-1].append(word)
        else:
            sentences.append([word])
    return sentences


def _ends(word: SpokenWord, after: SpokenWord) -> bool:
    return after.start - word.end >= PAUSE_SECONDS or word.text.endswith(SENTENCE_ENDS)


def _of_sentence(samples: Samples, sentence: Sequence[SpokenWord], start: float) -> Samples:
    first, last = (round((seconds - start) * RATE) for seconds in (sentence[0].start, sentence[-1].end))
    return samples[max(first, 0) : max(last, first + FRAME)]


def vectors(sentences: Sequence[Samples]) -> list[Any]:
    """A vector of length 1 for each sentence."""
    import numpy as np  # noqa: PLC0415 - loaded only where sound is decoded

    if not sentences:
        return []
    windows = [_windows(sentence) for sentence in sentences]
    every = np.concatenate(windows)
    pieces = [every[at : at + WINDOWS_AT_ONCE] for at in range(0, len(every), WINDOWS_AT_ONCE)]
    found = np.concatenate([_model().run(None, {"mel": piece.transpose(1, 0, 2)})[0] for piece in pieces])
    of_sentence = np.split(_normed(found), np.cumsum([len(one) for one in windows])[:-1])
    return list(_normed(np.stack([one.mean(axis=0) for one in of_sentence])))


def voice_groups(vectors: Sequence[Any], seconds: Sequence[float]) -> list[int]:
    """The group of each sentence, from 0; all 0 where there is one voice. `seconds`: how long the sentences are."""
    parts = _divided(vectors, seconds)
    if len(parts) == 1:
        return [0] * len(vectors)
    import numpy as np  # noqa: PLC0415

    rows, lengths = np.stack(vectors), np.array(seconds)
    parts = [[place for place in part if seconds[place] >= LONG_SECONDS] for part in parts]
    # A voice may be on both sides of a division.
    while len(parts) > 1:
        pairs = [(_alike(rows[one], rows[other]), one, other) for one, other in combinations(parts, 2)]
        alike, one, other = max(pairs, key=lambda pair: pair[0])
        if alike < MOST_ALIKE:
            break
        parts = [*(part for part in parts if part not in (one, other)), [*one, *other]]
    centres = _normed(np.stack([lengths[part] @ rows[part] for part in parts]))
    return (rows @ centres.T).argmax(axis=1).tolist()


def _divided(vectors: Sequence[Any], seconds: Sequence[float]) -> list[list[int]]:
    """The places of the sentences in parts that cannot be divided into two voices."""
    open_parts, parts = [list(range(len(vectors)))], list[list[int]]()
    while open_parts:
        part = open_parts.pop()
        sides = two_groups([vectors[place] for place in part], [seconds[place] for place in part])
        if any(sides) and len(parts) + len(open_parts) + 2 <= MOST_SPEAKERS:
            open_parts += [[place for place, own in zip(part, sides, strict=True) if own == side] for side in (0, 1)]
        else:
            parts.append(part)
    return parts


def two_groups(vectors: Sequence[Any], seconds: Sequence[float]) -> list[int]:
    """The group of each sentence, 0 or 1; all 0 where there is one voice. `seconds`: how long the sentences are."""
    import numpy as np  # noqa: PLC0415

    lengths = np.array(seconds)
    long = lengths >= LONG_SECONDS
    if long.sum() < 2:
        return [0] * len(vectors)
    rows = np.stack(vectors)
    groups = (rows @ _centres(rows[long], lengths[long]).T).argmax(axis=1)
    are_two = (
        all(_is_speaker(groups[long] == side, lengths[long]) for side in (0, 1))
        and _alike(*(rows[long & (groups == side)] for side in (0, 1))) < MOST_ALIKE
    )
    return groups.tolist() if are_two else [0] * len(vectors)


def _is_speaker(own: Any, lengths: Any) -> bool:
    """Whether one of the groups speaks for long enough, and often enough. `own`: which sentences are of it."""
    import numpy as np  # noqa: PLC0415

    turns = int(np.count_nonzero(np.diff(np.r_[0, own.astype(int)]) == 1))
    return turns >= LEAST_TURNS and float(lengths[own].sum()) >= LEAST_SECONDS


def _alike(first: Any, second: Any) -> float:
    """The mean of the cosines of the sentences of one group with those of the other."""
    return float(first.mean(axis=0) @ second.mean(axis=0))


def _centres(rows: Any, lengths: Any) -> Any:
    """The centres of two groups, by two-means that begin with the two sides of the direction of most variance."""
    import numpy as np  # noqa: PLC0415

    centred = rows - rows.mean(axis=0)
    groups = (centred @ np.linalg.svd(centred, full_matrices=False)[2][0] > 0).astype(int)
    centres = rows[:2]
    for _ in range(ROUNDS):
        if groups.min() == groups.max():
            break
        centres = _normed(np.stack([lengths[groups == side] @ rows[groups == side] for side in (0, 1)]))
        groups = (rows @ centres.T).argmax(axis=1)
    return centres


def _normed(rows: Any) -> Any:
    import numpy as np  # noqa: PLC0415

    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _windows(samples: Samples) -> Any:
    """The windows of a sentence: windows, steps, bands. A sentence that is shorter than a window is repeated."""
    import numpy as np  # noqa: PLC0415

    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    padded = np.pad(samples * max(LEVEL / max(level, 1e-9), 1.0), FRAME // 2).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::STEP] * np.hanning(FRAME + 1)[:-1]
    mel = (np.abs(np.fft.rfft(frames)) ** 2 @ _bands().T).astype(np.float32)
    mel = np.pad(mel, ((0, max(WINDOW - len(mel), 0)), (0, 0)), mode="wrap")
    starts = range(0, len(mel) - WINDOW + 1, HOP)
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(len(starts), MOST_WINDOWS)).round().astype(int))
    return np.stack([mel[starts[at] : starts[at] + WINDOW] for at in chosen.tolist()])


@lru_cache(maxsize=1)
def _bands() -> Any:
    """Triangles over the frequencies of a spectrum, a row each, of equal area (Slaney's scale of mel)."""
    import numpy as np  # noqa: PLC0415

    # Linear below 1 kHz, logarithmic above: 27 bands for a factor of 6.4.
    linear, per_band = 200 / 3, np.log(6.4) / 27
    mel = np.linspace(0, 15 + np.log(RATE / 2 / 1000) / per_band, BANDS + 2)
    borders = np.where(mel < 15, mel * linear, 1000 * np.exp(per_band * (mel - 15)))
    low, middle, high = borders[:-2, None], borders[1:-1, None], borders[2:, None]
    frequency = np.fft.rfftfreq(FRAME, 1 / RATE)
    triangles = np.maximum(0, np.minimum((frequency - low) / (middle - low), (high - frequency) / (high - middle)))
    return triangles * 2 / (high - low)


@lru_cache(maxsize=1)
def _model() -> Any:
    disable_telemetry()
    import onnxruntime as runtime  # noqa: PLC0415 - only where voices are separated

    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])
