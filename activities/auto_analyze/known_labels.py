"""The known labels of a request: those of all rounds up to its horizon. A worker reads them once for each round."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.auto_analyze.batching import labels_that_fit, tokens_of_labels
from parley.domain.auto_analyze.contract import BatchStep, LabelKind, Phase
from parley.storage import auto_analyze as runs

Labels = Mapping[LabelKind, Sequence[str]]
# Of the rounds that the streams of a few runs are at. Labels of a round never change once it is complete.
KEPT_ROUNDS = 64
K = TypeVar("K")
V = TypeVar("V")


class Fitting(NamedTuple):
    """The labels that a prompt has room for, and their tokens."""

    labels: Labels
    tokens: int


class KnownLabels:
    """The labels that one worker has read."""

    def __init__(self) -> None:
        self._rounds: OrderedDict[tuple[str, str, int], Labels] = OrderedDict()
        self._fitting: OrderedDict[tuple[str, str, int, str], Fitting] = OrderedDict()
        self._reading = asyncio.Lock()

    async def of(self, tx: AsyncSession, step: BatchStep, sized_for: str) -> Fitting | int:
        """The labels that a prompt contains; or the stream that has to complete a round before they are known."""
        workspace_id, job_key, horizon = step.job.input.workspace_id, step.job.job_key, step.horizon
        if horizon is None:
            return _fitting(await runs.known_labels(tx, workspace_id, job_key), sized_for)
        key = (workspace_id, job_key, horizon, sized_for)
        if key not in self._fitting:
            async with self._reading:
                labels = await self._up_to(tx, step, horizon)
            if isinstance(labels, int):
                return labels
            _keep(self._fitting, key, _fitting(labels, sized_for))
        return self._fitting[key]

    async def _up_to(self, tx: AsyncSession, step: BatchStep, horizon: int) -> Labels | int:
        workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
        key = (workspace_id, job_key, horizon)
        if key in self._rounds:
            return self._rounds[key]
        if step.phase is Phase.PARALLEL and horizon > 0:
            behind = await runs.first_behind(tx, workspace_id, job_key, horizon)
            if behind is not None:
                return behind
        earlier = max((known for *run, known in self._rounds if run == [*key[:2]] and known < horizon), default=None)
        found = await runs.known_labels(tx, workspace_id, job_key, after=earlier, up_to=horizon)
        if earlier is not None:
            before = self._rounds[workspace_id, job_key, earlier]
            found = {kind: [*before[kind], *found[kind]] for kind in LabelKind}
        _keep(self._rounds, key, found)
        return found


def _fitting(labels: Labels, sized_for: str) -> Fitting:
    fitting = labels_that_fit(labels, sized_for)
    return Fitting(fitting, tokens_of_labels(fitting))


def _keep(kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept[key] = value
    while len(kept) > KEPT_ROUNDS:
        kept.popitem(last=False)
