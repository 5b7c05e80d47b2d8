"""The known labels of a request: those of all rounds up to its horizon. A worker reads them once for each round.

The intents come with the evidence of their first sessions, which is stored together with the labels.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from parley.domain.auto_analyze.contract import LabelKind, Phase
from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.nearest import Labels, NearestLabels
from parley.domain.auto_analyze.steps import ClassifyStep
from parley.domain.requests import Provider
from parley.storage import auto_analyze as runs
from parley.storage import label_evidence
from parley.storage.database import Database

# A workspace and the key of a job.
Run = tuple[str, str]
# Of the rounds that the streams of a few runs are at. Labels of a round never change once it is complete.
KEPT_ROUNDS = 64
# Comparing with labels takes about 8 KB for each of them.
KEPT_COMPARISONS = 8
# How long a step waits for the other streams before it ends without a request, so that its stream can be stopped.
WAIT_SECONDS = 10.0
# How often a waiting step looks for rounds that other workers have completed. Those of its own worker wake it.
LOOK_SECONDS = 1.0
NO_ROUND_IS_OPEN = 2**31
K = TypeVar("K")
V = TypeVar("V")


class Known(NamedTuple):
    """The labels of some rounds, in the order in which they were found, and the evidence of the intents among them."""

    labels: Labels
    evidence: Sequence[LabelEvidence]

    def plus(self, found: "Known") -> "Known":
        """These, and those of later rounds; the same object if those have none."""
        if not any(found.labels.values()):
            return self
        labels = {kind: [*self.labels[kind], *found.labels[kind]] for kind in LabelKind}
        return Known(labels, [*self.evidence, *found.evidence])


class Behind(NamedTuple):
    """The labels are not known yet: `stream` has to complete a round first."""

    stream: int


class KnownLabels:
    """The labels that one worker has read, and how far it has seen the runs come."""

    def __init__(self, database: Database, limits: Callable[[Provider], float]) -> None:
        """`limits`: the requests per second of a provider. So many steps wait at most, since all go on at once."""
        self._database, self._limits = database, limits
        self._rounds: OrderedDict[tuple[str, str, int], Known] = OrderedDict()
        self._nearest: OrderedDict[tuple[str, str, int], NearestLabels] = OrderedDict()
        self._reading = asyncio.Lock()
        self._open_rounds: OrderedDict[Run, int] = OrderedDict()
        self._advanced: OrderedDict[Run, asyncio.Event] = OrderedDict()
        self._waiting: Counter[Provider] = Counter()

    async def of(self, step: ClassifyStep) -> NearestLabels | Behind:
        """The labels for a prompt, as soon as all streams have completed the rounds that they come from.

        `Behind` if that takes longer than `WAIT_SECONDS`.
        """
        run, horizon = (step.job.input.workspace_id, step.job.job_key), step.horizon
        if horizon is None:
            return await asyncio.to_thread(NearestLabels, *await self._read(run))
        key = (*run, horizon)
        if key not in self._nearest:
            if step.phase is Phase.PARALLEL and (behind := await self._wait(run, horizon, step.candidate.provider)):
                return behind
            async with self._reading:
                if key not in self._nearest:
                    nearest = await self._comparison(await self._up_to(run, horizon))
                    _keep(self._nearest, key, nearest, KEPT_COMPARISONS)
                    return nearest
        return self._nearest[key]

    async def _comparison(self, known: Known) -> NearestLabels:
        """Most rounds find no new label: theirs is the comparison of the round before."""
        made = (one for one in self._nearest.values() if one.known is known.labels)
        return next(made, None) or await asyncio.to_thread(NearestLabels, *known)

    def set_open_round(self, run: Run, open_round: int | None) -> None:
        """Note that all rounds before this one are complete; None: that all are. Wakes the steps that wait for it."""
        known = NO_ROUND_IS_OPEN if open_round is None else open_round
        if known > self._open_rounds.get(run, 0):
            _keep(self._open_rounds, run, known)
            if advanced := self._advanced.pop(run, None):
                advanced.set()

    async def _wait(self, run: Run, horizon: int, provider: Provider) -> Behind | None:
        """Wait until all streams have completed the rounds up to `horizon`. Returns what it did not wait for."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + WAIT_SECONDS
        while self._open_rounds.get(run, 1) <= horizon:
            async with self._database.reads() as tx:
                first = await runs.first_open(tx, *run)
            self.set_open_round(run, None if first is None else first.round)
            if first is None or first.round > horizon:
                return None
            if clock.time() > deadline or self._waiting[provider] >= self._limits(provider):
                return Behind(first.stream or 0)
            with self._counted(provider):
                await self._advance(run)
        return None

    async def _advance(self, run: Run) -> None:
        """Wait until this worker sees the run come to its next round, and not longer than `LOOK_SECONDS`."""
        if run not in self._advanced:
            _keep(self._advanced, run, asyncio.Event())
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._advanced[run].wait()
        except TimeoutError:
            return

    @contextmanager
    def _counted(self, provider: Provider) -> Generator[None]:
        self._waiting[provider] += 1
        try:
            yield
        finally:
            self._waiting[provider] -= 1

    async def _up_to(self, run: Run, horizon: int) -> Known:
        """The labels of complete rounds: those of the rounds after what was read before are added to it."""
        key = (*run, horizon)
        if key in self._rounds:
            return self._rounds[key]
        earlier = max((known for *of, known in self._rounds if (*of,) == run and known < horizon), default=None)
        found = await self._read(run, earlier, horizon)
        if earlier is not None:
            found = self._rounds[*run, earlier].plus(found)
        _keep(self._rounds, key, found)
        return found

    async def _read(self, run: Run, after: int | None = None, up_to: int | None = None) -> Known:
        """The labels that were first found in some rounds."""
        async with self._database.reads() as tx:
            labels = await runs.known_labels(tx, *run, after=after, up_to=up_to)
            first = await label_evidence.first_sessions(tx, *run, LabelKind.INTENT, after=after, up_to=up_to)
        return Known(labels, first)


def _keep(kept: OrderedDict[K, V], key: K, value: V, most: int = KEPT_ROUNDS) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
