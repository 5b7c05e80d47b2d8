"""The labels that a level of conflict resolution compares, with their evidence, cut into requests."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from parley.domain.auto_analyze.batching import (
    ComparisonRoom,
    comparison_room,
    comparison_tokens,
    tokens_of_instructions,
)
from parley.domain.auto_analyze.contract import Job, LabelKind
from parley.domain.auto_analyze.evidence import (
    SAMPLED_SESSIONS,
    LabelEvidence,
    combined,
    evidence_of,
    opening,
)
from parley.domain.auto_analyze.likeness import Likeness
from parley.domain.auto_analyze.merging import chunks, spelled_alike, unlocked
from parley.domain.auto_analyze.steps import ResolveStep
from parley.domain.chat import ChatMessage
from parley.domain.requests import request_id
from parley.storage import auto_analyze as runs
from parley.storage import label_evidence, label_maps
from parley.storage.database import Database
from parley.storage.label_evidence import Sample

# Labels that are only written differently are merged before the first comparison.
SPELLING_LEVEL = -1
# A process keeps the comparisons of so many kinds and levels: three kinds of a run are compared at the same time.
KEPT_COMPARISONS = 6
# Above every level of comparison: all merges count.
LAST_LEVEL = 1000


@dataclass(frozen=True)
class Comparison:
    """The labels that are left on a level, by name, and the chunks of one request each."""

    labels: Mapping[str, LabelEvidence]
    chunks: Sequence[Sequence[str]]

    def members(self, chunk: int) -> list[LabelEvidence]:
        return [self.labels[label] for label in self.chunks[chunk]]

    @cached_property
    def likeness(self) -> Likeness:
        return Likeness({label: one.text for label, one in self.labels.items()})


async def collect_evidence(database: Database, job: Job, kind: LabelKind) -> int:
    """Store the evidence of all labels of a kind, and merge those that are only written differently.

    Returns how many are merged.
    """
    workspace_id, job_key = job.input.workspace_id, job.job_key
    async with database.transaction(bulk=True) as tx:
        samples = await label_evidence.sample(tx, workspace_id, job_key, kind, SAMPLED_SESSIONS)
    collected = await asyncio.to_thread(lambda: [_evidence_of(label, one) for label, one in samples.items()])
    async with database.transaction(bulk=True) as tx:
        await label_evidence.store_evidence(tx, workspace_id, job_key, kind, collected)
        found = await label_evidence.evidence(tx, workspace_id, job_key, kind)
        spelled = spelled_alike(found)
        await runs.store_merges(tx, workspace_id, job_key, kind, SPELLING_LEVEL, spelled)
    return len(spelled)


async def comparison(database: Database, job: Job, kind: LabelKind, level: int, sized_for: str) -> Comparison:
    """The labels of a kind that are left on a level, cut into requests."""
    labels = await canonical_evidence(database, job, kind, level)
    room = comparison_room(sized_for, tokens_of_instructions(job.input.instructions))
    return await asyncio.to_thread(_comparison, tuple(labels), room)


async def canonical_evidence(database: Database, job: Job, kind: LabelKind, level: int) -> list[LabelEvidence]:
    """The evidence of the labels of a kind that are left on a level, by name."""
    workspace_id, job_key = job.input.workspace_id, job.job_key
    async with database.reads() as tx:
        found = await label_evidence.evidence(tx, workspace_id, job_key, kind)
        mapping = await runs.canonical_labels(tx, workspace_id, job_key, kind, level)
    return _combined(found, mapping)


async def labels_to_choose(database: Database, job: Job, kind: LabelKind) -> list[LabelEvidence]:
    """The evidence of the canonical labels of a kind, as merging or a review has left them, by name."""
    workspace_id, job_key = job.input.workspace_id, job.job_key
    async with database.reads() as tx:
        found = await label_evidence.evidence(tx, workspace_id, job_key, kind)
        mapping = (await label_maps.canonical(tx, workspace_id, job_key))[kind]
    return _combined(found, mapping)


async def store_merges(database: Database, step: ResolveStep, mapping: Mapping[str, str]) -> int:
    """Store the merges of a request, without those of labels that another request of the level has merged.

    Returns how many of its merges are stored, also where the request is repeated.
    """
    scope = (step.job.input.workspace_id, step.job.job_key, step.kind)
    async with database.transaction() as tx:
        before = await label_evidence.merged_on(tx, *scope, step.level)
        merged = unlocked(mapping, before)
        request = request_id(step.job.job_key, step.request_step)
        await runs.store_merges(tx, *scope, step.level, merged, request)
    return sum(label in merged or before.get(label) == into for label, into in mapping.items())


def _combined(found: Sequence[LabelEvidence], mapping: Mapping[str, str]) -> list[LabelEvidence]:
    members: defaultdict[str, list[LabelEvidence]] = defaultdict(list)
    for one in found:
        members[mapping[one.label]].append(one)
    return [combined(label, group) for label, group in sorted(members.items())]


def _evidence_of(label: str, sample: Sample) -> LabelEvidence:
    openings = [opening([ChatMessage.model_validate(one) for one in session.messages]) for session in sample.first]
    return evidence_of(label, sample.sessions, openings, [session.summary for session in sample.first])


# To cut 5,000 labels takes seconds, and each request of a level needs the same cut.
@lru_cache(KEPT_COMPARISONS)
def _comparison(labels: tuple[LabelEvidence, ...], room: ComparisonRoom) -> Comparison:
    costs = {one.label: comparison_tokens(one) for one in labels}
    # Labels that were given stay as they are: to compare only those with each other would be paid for nothing.
    free = {one.label for one in labels if not one.given}
    cut = chunks(labels, costs, room.tokens, room.labels) if free else []
    return Comparison({one.label: one for one in labels}, [chunk for chunk in cut if not free.isdisjoint(chunk)])
