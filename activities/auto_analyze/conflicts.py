"""Find labels that mean the same, and give them one name."""

from temporalio import activity

from activities.auto_analyze.asking import ask
from activities.boundary import boundary
from activities.paid_call import PaidCalls
from parley.domain.auto_analyze.batching import labels_at_once
from parley.domain.auto_analyze.contract import (
    AppliedConflicts,
    ApplyConflicts,
    ConflictPlan,
    Job,
    LabelKind,
    PlanConflicts,
    ResolveOutcome,
    ResolveStep,
)
from parley.domain.auto_analyze.labels import chunks, duplicates, read_groups
from parley.domain.auto_analyze.prompts import resolution_request
from parley.domain.capabilities import UNKNOWN_MODEL, narrower
from parley.domain.errors import ContextTooLong
from parley.storage import auto_analyze as runs
from parley.storage.database import Database

LAST_LEVEL = 1000


class ConflictActivities:
    """Activities of one worker, on its database and its providers."""

    def __init__(self, database: Database, paid_calls: PaidCalls) -> None:
        self._database, self._paid_calls = database, paid_calls

    @activity.defn(name="auto_analyze.plan_conflicts")
    @boundary
    async def plan_conflicts(self, step: PlanConflicts) -> ConflictPlan:
        """How many labels of a kind are left on a level, and in how many chunks they are compared."""
        cut = await self._chunks(step.job, step.kind, step.level, step.sized_for)
        labels = sum(map(len, cut))
        return ConflictPlan(labels=labels, chunks=len(cut) if labels > 1 else 0)

    @activity.defn(name="auto_analyze.resolve")
    @boundary
    async def resolve(self, step: ResolveStep) -> ResolveOutcome:
        """Ask for the duplicates in one chunk of labels; an unusable reply is said to be one.

        Raises:
            ContextTooLong: a chunk that is cut for the smallest window is too long for this candidate.
        """
        labels = (await self._chunks(step.job, step.kind, step.level, step.sized_for))[step.chunk]
        model = step.candidate.model
        if narrower(model, step.sized_for) and len(labels) > labels_at_once(model):
            return ResolveOutcome(too_long_for=model)
        request = resolution_request(step.kind, labels)
        try:
            reply, used = await ask(self._paid_calls, step.job, step.candidate, step.request_step, request)
        except ContextTooLong:
            if step.sized_for == UNKNOWN_MODEL:
                raise
            return ResolveOutcome(too_long_for=model)
        mapping, problem = read_groups(reply, labels)
        found = duplicates({label: mapping[label] for label in labels if label in mapping})
        if not problem:
            async with self._database.transaction() as tx:
                workspace_id = step.job.input.workspace_id
                await runs.keep_merges(tx, workspace_id, step.job.job_key, step.kind, step.level, mapping)
        return ResolveOutcome(**used.model_dump(), problem=problem, found=found)

    @activity.defn(name="auto_analyze.apply_conflicts")
    @boundary
    async def apply_conflicts(self, step: ApplyConflicts) -> AppliedConflicts:
        """Write the canonical labels to labels and sessions, all in one transaction."""
        workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
        mappings: dict[LabelKind, dict[str, str]] = {}
        async with self._database.transaction(bulk=True) as tx:
            for kind in LabelKind:
                mappings[kind] = await runs.canonical_labels(tx, workspace_id, job_key, kind, LAST_LEVEL)
                await runs.apply_canonical(tx, workspace_id, job_key, kind, mappings[kind])
        return AppliedConflicts(
            canonical_labels={kind: len(set(mapping.values())) for kind, mapping in mappings.items()},
            canonical_mappings={kind: duplicates(mapping) for kind, mapping in mappings.items()},
        )

    async def _chunks(self, job: Job, kind: LabelKind, level: int, sized_for: str) -> list[list[str]]:
        """The labels that are left of a kind, cut for one request each."""
        async with self._database.transaction() as tx:
            mapping = await runs.canonical_labels(tx, job.input.workspace_id, job.job_key, kind, level)
        return chunks(sorted(set(mapping.values())), level, labels_at_once(sized_for))
