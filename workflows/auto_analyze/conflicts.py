"""Phase 3: labels that mean the same get one name."""

from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.conflicts import ConflictActivities as Activities
    from parley.domain.auto_analyze.batching import tighter
    from parley.domain.auto_analyze.contract import (
        MAX_ASKS,
        ApplyConflicts,
        Job,
        LabelKind,
        PlanConflicts,
        ResolveOutcome,
        ResolveStep,
    )
    from parley.domain.routing import Candidate
    from workflows.auto_analyze.batches import on_a_provider, refusal_of
    from workflows.auto_analyze.books import Books
    from workflows.fallback import NoProviderServed, raise_if_cancelled
    from workflows.policies import BULK_STEP, STORAGE_STEP

MAX_LEVELS = 4


class ConflictResolver:
    """Merges the labels of a run, kind by kind, and writes the outcome to its sessions."""

    def __init__(self, job: Job, books: Books) -> None:
        self._job, self._books = job, books
        self._candidates = books.state.plan.candidates

    async def resolve(self, kind: LabelKind) -> None:
        """Compare all labels at once where they fit one request, else in chunks that are dealt anew on each level.

        Where a chunk is too long for who is to answer, the next level is cut for that window.
        """
        sized_for = self._candidates[0].model
        levels, level = MAX_LEVELS, 0
        while level < levels:
            plan = await workflow.execute_activity_method(
                Activities.plan_conflicts,
                PlanConflicts(job=self._job, kind=kind, level=level, sized_for=sized_for),
                summary=f"{kind.value}s, level {level}",
                **STORAGE_STEP,
            )
            raise_if_cancelled()
            first = ResolveStep(
                job=self._job,
                candidate=self._candidates[0],
                kind=kind,
                level=level,
                chunk=0,
                sized_for=sized_for,
            )
            too_long_for = await self._resolve_level(first, plan.chunks)
            level += 1
            if too_long_for:
                sized_for, levels = tighter(sized_for, too_long_for), levels + 1
            elif plan.chunks <= 1:
                return

    async def apply(self) -> None:
        """Write the canonical labels to all sessions."""
        applied = await workflow.execute_activity_method(
            Activities.apply_conflicts,
            ApplyConflicts(job=self._job),
            summary="canonical labels for all sessions",
            **BULK_STEP,
        )
        self._books.count(
            canonical_labels=applied.canonical_labels,
            canonical_mappings=applied.canonical_mappings,
            conflicts_resolved=sum(applied.canonical_mappings.values()),
        )

    async def _resolve_level(self, first: ResolveStep, chunks: int) -> str:
        """Compare the labels of each chunk. Returns the model that one is too long for, if it is."""
        for chunk in range(chunks):
            outcome = await self._resolve_chunk(first.model_copy(update={"chunk": chunk}))
            if outcome.too_long_for:
                return outcome.too_long_for
            problem = outcome.refused or outcome.problem
            if problem:
                self._books.count(unmerged_chunks=self._books.statistics.unmerged_chunks + 1)
                self._books.warn(f"some {first.kind.value} labels stay unmerged: {problem}")
            self._books.count(conflicts_found=self._books.statistics.conflicts_found + outcome.found)
        return ""

    async def _resolve_chunk(self, first: ResolveStep) -> ResolveOutcome:
        """The outcome of the first usable reply, else of the last one."""
        outcome = ResolveOutcome()
        for ask in range(1, MAX_ASKS + 1):

            def step(candidate: Candidate, ask: int = ask) -> tuple[Any, ResolveStep]:
                return Activities.resolve, first.model_copy(update={"candidate": candidate, "ask": ask})

            try:
                outcome = await on_a_provider(self._job, self._candidates, step, self._books.parked)
            except NoProviderServed as error:
                return ResolveOutcome(refused=refusal_of(error))
            self._books.spent(outcome)
            raise_if_cancelled()
            if not outcome.problem:
                return outcome
            self._books.count(retries=self._books.statistics.retries + 1)
        return outcome
