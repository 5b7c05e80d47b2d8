"""Phase 3: merge labels with the same meaning into one canonical label."""

from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.label_maps import LabelMapActivities
    from activities.auto_analyze.labelling import LabellingActivities
    from activities.auto_analyze.runs import RunActivities
    from parley.domain.auto_analyze.batching import tighter
    from parley.domain.auto_analyze.contract import Job, LabelKind
    from parley.domain.auto_analyze.steps import MAX_ASKS, ApplyConflicts, PlanConflicts, ResolveOutcome, ResolveStep
    from parley.domain.routing import Candidate
    from workflows.auto_analyze.batches import on_a_provider, refusal_of
    from workflows.auto_analyze.run_state import Conflicts, RunState
    from workflows.fallback import NoProviderServed, raise_if_cancelled
    from workflows.policies import BULK_STEP, STORAGE_STEP

MAX_LEVELS = 4


class ConflictResolver:
    """Merges the labels of a run, kind by kind, and writes the canonical labels to its sessions."""

    def __init__(self, job: Job, state: RunState) -> None:
        self._job, self._state = job, state
        self._candidates = state.plan.candidates

    async def resolve(self, kind: LabelKind) -> None:
        """Compare all labels in one request if they fit, else in chunks, level by level, until nothing is merged.

        If a chunk is too long for a candidate, the next level is cut for that candidate's context window. A kind for
        which the budget did not suffice may be resolved again: then its conflicts are counted again.
        """
        self._state.start_kind(kind)
        sized_for = self._candidates[0].model
        levels, level = MAX_LEVELS, 0
        while level < levels:
            plan = await workflow.execute_activity_method(
                RunActivities.plan_conflicts,
                PlanConflicts(job=self._job, kind=kind, level=level, sized_for=sized_for),
                summary=f"{kind.value}s, level {level}",
                **STORAGE_STEP,
            )
            raise_if_cancelled()
            self._state.add_conflicts(kind, Conflicts(found=plan.spelled_alike))
            first = ResolveStep(
                job=self._job,
                candidate=self._candidates[0],
                kind=kind,
                level=level,
                chunk=0,
                sized_for=sized_for,
            )
            ended = await self._resolve_level(first, plan.chunks)
            level += 1
            if ended.too_long_for:
                sized_for, levels = tighter(sized_for, ended.too_long_for), levels + 1
            elif plan.chunks <= 1 or not ended.merged:
                break
        self._state.complete_kind(kind)

    async def apply(self) -> None:
        """Write the canonical labels to all sessions."""
        applied = await workflow.execute_activity_method(
            LabelMapActivities.apply_conflicts,
            ApplyConflicts(job=self._job, reviewed=self._state.reviewed),
            summary="canonical labels for all sessions",
            **BULK_STEP,
        )
        self._state.set_canonical(applied)

    async def _resolve_level(self, first: ResolveStep, chunks: int) -> ResolveOutcome:
        """Compare the labels of each chunk. Returns how many were merged, or the model that a chunk is too long for."""
        merged = 0
        for chunk in range(chunks):
            await workflow.wait_condition(lambda: not self._state.paused)
            outcome = await self._resolve_chunk(first.model_copy(update={"chunk": chunk}))
            if outcome.too_long_for:
                return outcome
            problem = outcome.refused or outcome.problem
            if problem:
                self._state.warn_of_unmerged(first.kind, problem)
            self._state.add_conflicts(
                first.kind, Conflicts(outcome.found, outcome.kept_apart, unmerged_chunks=bool(problem))
            )
            merged += outcome.merged
        return ResolveOutcome(merged=merged)

    async def _resolve_chunk(self, first: ResolveStep) -> ResolveOutcome:
        """The outcome of the first usable reply, else of the last one."""
        outcome = ResolveOutcome()
        for ask in range(1, MAX_ASKS + 1):

            def step(candidate: Candidate, ask: int = ask) -> tuple[Any, ResolveStep]:
                return LabellingActivities.resolve, first.model_copy(update={"candidate": candidate, "ask": ask})

            try:
                outcome = await on_a_provider(self._job, self._candidates, step, self._state.wait_for_provider)
            except NoProviderServed as error:
                return ResolveOutcome(refused=refusal_of(error))
            self._state.add_usage(outcome)
            raise_if_cancelled()
            if not outcome.problem:
                return outcome
            self._state.add_retry()
        return outcome
