"""The labels that are known in a round, with the evidence of their first sessions. A worker reads them once a round."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.auto_analyze.contract import BatchStep, LabelKind
from parley.domain.auto_analyze.evidence import DEFINITION_CHARACTERS, opening
from parley.domain.auto_analyze.nearest import NearestLabels
from parley.domain.auto_analyze.validation import SessionLabels
from parley.domain.text import one_line
from parley.storage import auto_analyze as runs
from parley.storage import label_evidence
from parley.storage.auto_analyze import Work
from parley.storage.database import Database
from parley.storage.label_evidence import FirstSession

KEPT_ROUNDS = 16


class KnownLabels:
    """The labels that one worker has read. Those of a round never change once it has begun."""

    def __init__(self) -> None:
        self._rounds: OrderedDict[tuple[str, str, int], NearestLabels] = OrderedDict()

    async def of(self, tx: AsyncSession, step: BatchStep) -> NearestLabels:
        """The labels that earlier rounds found."""
        workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
        key = (workspace_id, job_key, step.round)
        if key not in self._rounds:
            known = await runs.known_labels(tx, workspace_id, job_key, step.round)
            first = await label_evidence.first_sessions(tx, workspace_id, job_key, LabelKind.INTENT, step.round)
            self._rounds[key] = NearestLabels(known, first)
            while len(self._rounds) > KEPT_ROUNDS:
                self._rounds.popitem(last=False)
        return self._rounds[key]


async def store_first_sessions(
    database: Database, step: BatchStep, found: Mapping[int, SessionLabels], work: Sequence[Work]
) -> None:
    """Store what these sessions show of their intents, where they are the first ones."""
    first: dict[str, FirstSession] = {}
    for item in work:  # in processing order
        labels = found.get(item.ordinal)
        if labels is None or labels.fallback or labels.by_rule:
            continue
        meaning = one_line(labels.summary, DEFINITION_CHARACTERS)
        session = FirstSession(labels.intent, item.ordinal, meaning, opening(item.session.messages))
        first.setdefault(labels.intent, session)
    scope = (step.job.input.workspace_id, step.job.job_key, LabelKind.INTENT)
    async with database.transaction() as tx:
        await label_evidence.store_first(tx, *scope, [first[label] for label in sorted(first)])
