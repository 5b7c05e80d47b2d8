"""The channels of a recording: whether each has a speaker of its own, and which words come through the line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from parley.audio import channel_count, decode_blocks
from parley.domain.hearing import channel_label
from parley.domain.requests import SpokenWord

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Levels do not need more.
RATE = 8_000
STEP_SECONDS = 0.05
# A step is silent below a share of the level that only the loudest steps exceed: the percentile, the share.
LOUD, SILENT = 95, 0.1
# Of speakers with a channel each, one is this many times louder on the own channel than on the others, for most of the
# time with speech. Two microphones in one room hear both speakers nearly alike.
APART = 2.0
MOSTLY = 0.5
# Two channels at least have a speaker: one who mostly listens is the loudest for this share of the time with speech. A
# channel that is off, or has noise only, never is: then all voices may be on the other one.
SELDOM = 0.01
# A word that is so much quieter on its own channel than on another is the other speaker's, heard through the line.
CROSSTALK = 0.2


class Levels(NamedTuple):
    """The level of each channel, a row each, in steps of `STEP_SECONDS`: the root of the mean square."""

    values: npt.NDArray[np.float64]

    @property
    def channels(self) -> int:
        return len(self.values)

    @property
    def are_apart(self) -> bool:
        """Whether each channel has a speaker of its own; else the voices are mixed on all of them, or all on one."""
        shares = sorted(self._loudest_shares())
        return sum(shares) >= MOSTLY and shares[-2] >= SELDOM

    @property
    def only_channel(self) -> int | None:
        """The number of the channel that all voices are on, from 1; None where there is none, or more than one."""
        shares = self._loudest_shares()
        *_, second, most = sorted(shares)
        return shares.index(most) + 1 if sum(shares) >= MOSTLY and second < SELDOM else None

    def _loudest_shares(self) -> list[float]:
        """For which share of the time with speech each channel is by far the loudest."""
        import numpy as np  # noqa: PLC0415 - loaded only where sound is decoded

        second, loudest = np.sort(self.values, axis=0)[-2:]
        spoken = loudest > SILENT * np.percentile(loudest, LOUD)
        alone = self.values.argmax(axis=0)[spoken & (loudest > APART * second)]
        counts = np.bincount(alone, minlength=self.channels)
        return (counts / max(int(spoken.sum()), 1)).tolist()


def levels(audio: bytes) -> Levels:
    """Measure the channels of a recording. Hours of it take little memory.

    Raises:
        InvalidInput: it cannot be decoded.
    """
    import numpy as np  # noqa: PLC0415 - loaded only where sound is decoded

    return Levels(np.concatenate(list(_levels(audio)), axis=1))


def _levels(audio: bytes) -> Iterator[Any]:
    import numpy as np  # noqa: PLC0415

    step = round(STEP_SECONDS * RATE)
    rest: Any = None
    for block in decode_blocks(audio, rate=RATE):
        samples = np.stack(block.channels)
        samples = samples if rest is None else np.concatenate((rest, samples), axis=1)
        whole = samples.shape[1] // step * step
        rest = samples[:, whole:]
        yield _root_mean_square(samples[:, :whole].reshape(len(samples), -1, step))
    if rest.shape[1]:
        yield _root_mean_square(rest[:, np.newaxis, :])


def _root_mean_square(steps: Any) -> Any:
    return (steps.astype("float64") ** 2).mean(axis=2) ** 0.5


def channel_levels(audio: bytes) -> Levels | None:
    """The levels of a recording with several channels; None where it has one, which is not decoded.

    Raises:
        InvalidInput: it cannot be decoded.
    """
    if channel_count(audio) == 1:
        return None
    found = levels(audio)
    return found if found.channels > 1 else None


def own_words(found: Levels, words: Sequence[SpokenWord]) -> list[SpokenWord]:
    """The words that were heard, without those of a channel that come through the line.

    Where all of it is on one channel, and one voice was heard there, its label is that of the channel.
    """
    labels = [channel_label(number + 1) for number in range(found.channels)]
    only = found.only_channel
    if only and len({word.speaker for word in words}) == 1:
        return [word.model_copy(update={"speaker": channel_label(only)}) for word in words]
    return [word for word in words if word.speaker not in labels or not _is_crosstalk(found, labels, word)]


def _is_crosstalk(found: Levels, labels: Sequence[str], word: SpokenWord) -> bool:
    steps = found.values[:, int(word.start / STEP_SECONDS) : int(word.end / STEP_SECONDS) + 1]
    loudness = (steps**2).sum(axis=1) ** 0.5
    return bool(loudness[labels.index(word.speaker)] < CROSSTALK * loudness.max())
