"""The sessions of a batch whose intents are in doubt, and the labels that they choose from."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from temporalio import activity

from activities.auto_analyze.evidence import labels_to_choose
from parley.domain.auto_analyze.batching import choice_tokens, comparison_room, comparison_tokens
from parley.domain.auto_analyze.contract import Job, LabelKind, ReassignStep
from parley.domain.auto_analyze.evidence import SAMPLED_SESSIONS, LabelEvidence, opening
from parley.domain.auto_analyze.reassigning import Choices, Doubt, Labelled, parts
from parley.domain.capabilities import window
from parley.domain.chat import ChatMessage
from parley.domain.requests import request_id
from parley.storage import reassignments, submissions
from parley.storage.database import Database
from parley.storage.reassignments import LabelledSession

# The sessions that one step looks through. Those that are not in doubt are not sent: where a quarter of them is, they
# fill a request of most models.
SESSIONS_AT_ONCE = 80
# What a session takes in a request: what its user said, and its label; and the same of a near copy.
SESSION_TOKENS = 200
# Near copies are looked for among all sessions of a run, or among some of each label if there are more than this. More
# sessions take more time: with 5,000, about 3 ms for each.
MOST_SAMPLED = 2000
# Of so many runs, a worker keeps the labels to choose from.
KEPT_RUNS = 4


class KnownChoices:
    """The labels to choose from, by run. They do not change while sessions are looked at."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, str], Choices] = OrderedDict()
        self._reading = asyncio.Lock()

    async def of(self, database: Database, job: Job) -> Choices:
        # A run that is reset may have other labels.
        key = (job.input.workspace_id, job.job_key, activity.info().workflow_run_id or "")
        async with self._reading:
            if key not in self._kept:
                self._kept[key] = await _choices(database, job)
                while len(self._kept) > KEPT_RUNS:
                    self._kept.popitem(last=False)
        return self._kept[key]


async def _choices(database: Database, job: Job) -> Choices:
    labels = await labels_to_choose(database, job, LabelKind.INTENT)
    async with database.transaction(bulk=True) as tx:
        sampled = await reassignments.sample(tx, job.input.workspace_id, job.job_key, _sampled_of_each(labels))
    return await asyncio.to_thread(lambda: Choices(labels, [_labelled(session) for session in sampled]))


def _sampled_of_each(labels: Sequence[LabelEvidence]) -> int:
    """Among how many sessions of each label near copies are looked for, at most."""
    if sum(one.sessions for one in labels) <= MOST_SAMPLED:
        return MOST_SAMPLED
    return min(SAMPLED_SESSIONS, max(MOST_SAMPLED // len(labels), 1))


def _labelled(session: LabelledSession) -> Labelled:
    messages = [ChatMessage.model_validate(message) for message in session.messages]
    return Labelled(session.ordinal, opening(messages), session.intent)


async def doubts_of(database: Database, step: ReassignStep, choices: Choices) -> dict[int, Doubt]:
    """The sessions of a batch whose intents are in doubt, by ordinal."""
    async with database.reads() as tx:
        sessions = await reassignments.batch(tx, step.job.input.workspace_id, step.job.job_key, step.batch)
    return await asyncio.to_thread(_doubts, sessions, choices)


def _doubts(sessions: Sequence[LabelledSession], choices: Choices) -> dict[int, Doubt]:
    found = {session.ordinal: choices.doubt(_labelled(session)) for session in sessions}
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
