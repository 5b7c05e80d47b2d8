"""The sessions of a batch whose intents are in doubt, and the labels that they choose from."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from temporalio import activity

from activities.auto_analyze.evidence import labels_to_choose
from activities.auto_analyze.meaning import LabelVectors, Meaning
from parley.domain.auto_analyze.batching import choice_tokens, comparison_room, comparison_tokens
from parley.domain.auto_analyze.contract import Aspect, Job, LabelKind
from parley.domain.auto_analyze.evidence import SAMPLED_SESSIONS, LabelEvidence, opening
from parley.domain.auto_analyze.reassigning import Choices, Doubt, Labelled, parts
from parley.domain.auto_analyze.steps import ReassignStep
from parley.domain.capabilities import window
from parley.domain.chat import ChatMessage
from parley.domain.requests import request_id
from parley.storage import reassignments, submissions
from parley.storage.database import Database
from parley.storage.reassignments import LabelledSession

# The sessions that one step looks through. Those that are not in doubt are not sent: where a quarter of those by
# themselves is, or one of fifteen of near copies, they fill a request of most models.
SESSIONS_AT_ONCE = {Aspect.ALONE: 80, Aspect.NEAR_COPIES: 320}
# What a session takes in a request: what its user said, and its label; and the same of a near copy.
SESSION_TOKENS = 200
# Near copies are looked for among all sessions of a run, or among some of each label if there are more than this. More
# sessions take more time: with 5,000, about 3 ms for each.
MOST_SAMPLED = 2000
# Sessions of larger runs are compared by words alone: a vector takes some milliseconds of CPU.
MOST_BY_MEANING = 10_000
# Of so many runs, a worker keeps the labels to choose from.
KEPT_RUNS = 4


class Known(NamedTuple):
    """The labels to choose from, and their vectors where sessions are compared by meaning too."""

    choices: Choices
    vectors: LabelVectors | None = None


class KnownChoices:
    """The labels to choose from, by run and aspect. They do not change while sessions are looked at."""

    def __init__(self, meaning: Meaning) -> None:
        self._meaning = meaning
        self._kept: OrderedDict[tuple[str, ...], Known] = OrderedDict()
        self._reading = asyncio.Lock()

    async def of(self, database: Database, job: Job, aspect: Aspect) -> Known:
        # A run that is reset may have other labels.
        key = (job.input.workspace_id, job.job_key, activity.info().workflow_run_id or "", aspect)
        async with self._reading:
            if key not in self._kept:
                self._kept[key] = await self._read(database, job, aspect)
                while len(self._kept) > KEPT_RUNS:
                    self._kept.popitem(last=False)
        return self._kept[key]

    async def _read(self, database: Database, job: Job, aspect: Aspect) -> Known:
        labels = await labels_to_choose(database, job, LabelKind.INTENT)
        if aspect is Aspect.NEAR_COPIES:
            each = _sampled_of_each(labels)
            async with database.transaction(bulk=True) as tx:
                sampled = await reassignments.sample(tx, job.input.workspace_id, job.job_key, each, aspect)
            return Known(await asyncio.to_thread(lambda: Choices(labels, [_labelled(one) for one in sampled])))
        choices = await asyncio.to_thread(Choices, labels)
        if sum(one.sessions for one in labels) > MOST_BY_MEANING:
            return Known(choices)
        examples = await self._meaning.of_examples(choices.labels.values())
        vectors = await asyncio.to_thread(LabelVectors, self._meaning, examples) if examples else None
        return Known(choices, vectors)


def _sampled_of_each(labels: Sequence[LabelEvidence]) -> int:
    """Among how many sessions of each label near copies are looked for, at most."""
    if sum(one.sessions for one in labels) <= MOST_SAMPLED:
        return MOST_SAMPLED
    return min(SAMPLED_SESSIONS, max(MOST_SAMPLED // len(labels), 1))


def _labelled(session: LabelledSession) -> Labelled:
    messages = [ChatMessage.model_validate(message) for message in session.messages]
    return Labelled(session.ordinal, opening(messages), session.intent)


async def doubts_of(database: Database, step: ReassignStep, known: Known) -> dict[int, Doubt]:
    """The sessions of a batch whose intents are in doubt, by ordinal."""
    async with database.reads() as tx:
        sessions = await reassignments.batch(tx, step.job.input.workspace_id, step.job.job_key, step.batch)
    if step.aspect is Aspect.NEAR_COPIES:
        return await asyncio.to_thread(_doubts, sessions, known.choices.doubt_of_near_copy)
    doubts = await asyncio.to_thread(_doubts, sessions, known.choices.doubt)
    return await known.vectors.doubts(doubts) if known.vectors else doubts


def _doubts(sessions: Sequence[LabelledSession], doubt: Callable[[Labelled], Doubt | None]) -> dict[int, Doubt]:
    found = {session.ordinal: doubt(_labelled(session)) for session in sessions}
    return {ordinal: doubt for ordinal, doubt in found.items() if doubt is not None}


async def answered_in_batches(database: Database, job: Job, steps: Sequence[str]) -> dict[str, UUID]:
    """The submissions that have answered requests of a run, by the steps of these requests."""
    if job.input.processing != "batch":
        return {}
    named = {request_id(job.job_key, step): step for step in steps}
    async with database.reads() as tx:
        found = await submissions.answering(tx, job.input.workspace_id, list(named))
    return {named[request]: submission for request, submission in found.items()}


def doubts_at_once(
    doubts: Mapping[int, Doubt], choices: Choices, sized_for: str, added: int
) -> Iterator[dict[int, Doubt]]:
    """Cut doubts into requests that fit a model. `added`: the tokens of the operator's instructions."""
    most = window(sized_for).cap
    room = comparison_room(sized_for, added).tokens - choice_tokens(most) - most * SESSION_TOKENS
    costs = {label: comparison_tokens(one) for label, one in choices.labels.items()}
    return parts(doubts, costs, room, most)
