"""The job `AutoAnalyze`: check its options, start it, follow it, read its report and its labels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict, Unpack

from pydantic import AwareDatetime, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from parley.client.backend import Backend, WorkflowStart, start_workflow, temporal_errors
from parley.client.importing import Imported, ReadingOptions, read_facts
from parley.client.jobs import JobHandle, check_model, provider_of, true_status
from parley.client.label_maps import OPERATOR, LabelMaps
from parley.client.reading import first_problem
from parley.client.run_comparison import comparison_of
from parley.domain.auto_analyze.comparison import RunComparison
from parley.domain.auto_analyze.contract import (
    APPROVE,
    FINISH,
    PAUSE,
    RESUME,
    SET_STREAMS,
    WORKFLOW,
    AutoAnalyzeInput,
    AutoAnalyzeProgress,
    DiscoveryTerms,
    ExportedSession,
    FinishRun,
    LabelCount,
    LabelKind,
    LabelledChat,
    LabelOrigin,
    PauseRun,
    ResumeRun,
    RunControls,
    SetStreams,
    Statistics,
    workflow_id,
)
from parley.domain.auto_analyze.drift import KindDrift, drift
from parley.domain.auto_analyze.estimate import RunEstimate, Speed, Workload, estimate, even_workload, workload_of
from parley.domain.auto_analyze.label_maps import LabelPair
from parley.domain.auto_analyze.overview import EarlierRun, QuotedSession, RunOverview
from parley.domain.auto_analyze.processing import BATCH_PROVIDERS, Processing
from parley.domain.auto_analyze.steps import ApproveLabels
from parley.domain.auto_analyze.taxonomy import Taxonomy
from parley.domain.costs import Costs
from parley.domain.errors import InvalidInput, LabelsChanged, NotFound, UnpricedModel
from parley.domain.model import Model
from parley.domain.pricing import BATCH, ConfiguredRates, rates_for
from parley.domain.requests import CHAT_PROVIDERS, Provider
from parley.failures import job_failure
from parley.settings import Settings
from parley.storage import auto_analyze as runs
from parley.storage import earlier_runs, label_consistency, label_explorer, run_overview, taxonomies, usage
from parley.storage.datasets import count_copies, load_dataset
from parley.storage.tables import AutoRun

EXPORT_PAGE = 500


class AutoAnalyzeOptions(TypedDict, total=False):
    """The options of a labelling run. What is left out comes from the settings, or from `AutoAnalyzeInput`."""

    provider: Provider | None
    """Call this provider only. Default: the provider that ranks first, and then the next."""
    model: str | None
    """Call this model only. Without `provider`: of the first provider that has a price for it."""
    streams: int
    """Parallel streams, 1 to 64. Default: PARALLEL_STREAM_COUNT."""
    sessions_per_stream: int | None
    """A stream's sessions per round, 1 to 100; None: as many as fit the model. Default: SESSIONS_PER_STREAM."""
    max_staleness: int | None
    """By how many rounds labels may be old, 0 to 100; None: no bound, and labels depend on timing. Default: 4."""
    discovery: DiscoveryTerms
    """The size of the discovery sample. Default: DISCOVERY_TARGET_PERCENTAGE and its bounds."""
    seed: int
    """Selects the sample: the same seed and the same replies give the same labels. Default: 7."""
    budget_usd: Decimal
    """The most that the run may cost, in USD. Default: 100."""
    wait_limit_seconds: int
    """How long to wait while every provider is down, in seconds. Default: one day."""
    reassign: bool
    """Look again at the intents that are in doubt after merging. Default: True."""
    labels: Taxonomy
    """The labels to start from. `read_labels` reads a file of them. Default: none."""
    since_analysis: str
    """The id or key of an earlier run: label only sessions that it has not, starting from its labels. Default: all."""
    probes: int | None
    """Sessions to label a second time: 0 to 200; None: 1%, 5 to 50, of 100 sessions or more. Default: None."""
    review: bool
    """Wait for a person to approve the merges before they are applied. Default: False."""
    review_limit_seconds: int
    """How long a review may take, in seconds; then the merges are applied as they are. Default: one day."""
    instructions: str
    """What is added to the prompts, for example how narrow labels are to be; up to 1,000 characters. Default: none."""
    processing: Processing
    """`batch` asks for labels through the provider's batch API: half price, within a day. Default: `realtime`."""
    debug: bool
    """Log each round. Default: PARALLEL_PROCESSING_DEBUG."""


class AutoAnalyzeReport(Model):
    """A labelling run as it is now.

    `labels`: canonical labels with the number of their sessions. `statistics` is None until the run has ended.
    `reason`: why it failed or was cancelled. `review_until`: while it waits for a review of its merges, when it goes on
    without one. `fork_of`: the key of the run that it repeats; empty if it repeats none. `instructions`: what its
    operator added to the prompts.
    """

    id: str
    job_key: str
    status: str
    reason: str = ""
    dataset_id: str
    statistics: Statistics | None
    labels: tuple[LabelCount, ...]
    review_until: AwareDatetime | None = None
    fork_of: str = ""
    instructions: str = ""
    costs: Costs


class AutoAnalyzeHandle(JobHandle[AutoAnalyzeProgress, AutoAnalyzeReport]):
    """A running or ended `AutoAnalyze`."""

    @property
    def labels(self) -> LabelMaps:
        """Its labels with what was merged into each, and what a person may change in them."""
        return LabelMaps(self._backend, self._workspace_id, self.id, self.job_key)

    async def progress(self) -> AutoAnalyzeProgress:
        """The phase, the sessions done, the cost so far, and the state of each stream.

        Raises:
            NotFound: there is no such job.
            Unreachable: Temporal or the job's worker does not answer.
        """
        return await self._query_progress(AutoAnalyzeProgress)

    async def report(self) -> AutoAnalyzeReport:
        """The labels found so far, the statistics of an ended run, and what it cost.

        Raises:
            NotFound: there is no such job.
        """
        async with self._backend.database.transaction() as tx:
            row = await runs.find(tx, self._workspace_id, self.job_key)
            spent = await usage.costs(tx, self._workspace_id, job_key=row.job_key)
            labels = await runs.label_counts(tx, self._workspace_id, row.job_key)
        return AutoAnalyzeReport(
            id=row.workflow_id,
            job_key=row.job_key,
            status=await true_status(self._backend, row.workspace_id, row.workflow_id, row.job_key, row.status),
            reason=row.reason,
            dataset_id=row.dataset_id,
            statistics=Statistics.model_validate(row.statistics) if row.statistics else None,
            labels=tuple(labels),
            review_until=row.review_until if row.ended_at is None else None,
            fork_of=row.settings.get("fork_of") or "",
            instructions=row.settings.get("instructions", ""),
            costs=spent,
        )

    async def pause(self) -> RunControls:
        """Start no further request. Those in flight are finished.

        Raises:
            NotFound: the job does not run.
            Unreachable: Temporal or the job's worker does not answer.
        """
        return await self._control(PAUSE, PauseRun())

    async def resume(self, *, budget_usd: Decimal | None = None) -> RunControls:
        """Go on, after a pause or with a budget that was used up.

        Args:
            budget_usd: the new budget of the whole run, in USD; default: as before.

        Raises:
            InvalidInput: the budget is not an amount, or is less than what is spent and reserved.
            NotFound: the job does not run.
            Unreachable: Temporal or the job's worker does not answer.
        """
        try:
            given = ResumeRun(budget_usd=budget_usd)
        except ValidationError as error:
            raise first_problem(error, where="resume") from None
        return await self._control(RESUME, given)

    async def finish(self) -> RunControls:
        """Label no further session: merge the labels that there are, and end as completed.

        Raises:
            NotFound: the job does not run.
            Unreachable: Temporal or the job's worker does not answer.
        """
        return await self._control(FINISH, FinishRun())

    async def approve(
        self,
        *,
        rejected: Sequence[LabelPair] = (),
        added: Sequence[LabelPair] = (),
        version: int | None = None,
        made_by: str = OPERATOR,
    ) -> RunControls:
        """Approve the merges of a run that waits for a review of them, and let it go on.

        What is rejected and added is changed all at once or not at all. After an error it can be called again.

        Args:
            rejected: merges that are not to be made: labels, and what they would be merged into.
            added: merges to make instead or in addition.
            version: of the labels that the caller has seen; default: whatever they are now.
            made_by: who approves, for the history.

        Raises:
            InvalidInput: the run does not wait for a review, or a merge cannot be rejected or made.
            LabelsChanged: the labels have another version.
            NotFound: the job does not run, or there is no such label.
            Unreachable: Temporal or the job's worker does not answer.
        """
        if not await self.labels.is_in_review():
            raise InvalidInput("does not wait for a review of its labels", where=self.id)
        if rejected or added:
            version = await self.labels.revise(rejected=rejected, added=added, version=version, made_by=made_by)
        elif version is None:
            version = (await self.labels.history())[-1].version
        return await self._control(APPROVE, ApproveLabels(version=version, made_by=made_by))

    async def set_streams(self, streams: int) -> RunControls:
        """Label what is left with another number of parallel streams, once those at work have ended their batches.

        Rounds that have begun keep their batches; what is left is cut into new ones.

        Args:
            streams: how many streams label sessions at the same time, 1 to 64.

        Raises:
            InvalidInput: the number is out of bounds, or all sessions are labelled already.
            NotFound: the job does not run.
            Unreachable: Temporal or the job's worker does not answer.
        """
        try:
            given = SetStreams(streams=streams)
        except ValidationError as error:
            raise first_problem(error, where="streams") from None
        return await self._control(SET_STREAMS, given)

    async def _control(self, update: str, given: Model) -> RunControls:
        workflow = await self._workflow()
        ended = NotFound(f"{self.id} does not run: its results stay stored")
        with temporal_errors("the job's worker does not answer", missing=ended):
            try:
                return await workflow.execute_update(update, given, result_type=RunControls)
            except WorkflowUpdateFailedError as error:
                cause = error.cause
                for known in (InvalidInput, LabelsChanged):
                    if isinstance(cause, ApplicationError) and cause.type == known.__name__:
                        raise known(str(cause.message)) from None
                raise job_failure(cause) from error

    async def overview(self) -> RunOverview:
        """The run at a glance: its labels, where sessions go, new labels by round, costs by phase, and consistency.

        Raises:
            NotFound: there is no such job.
        """
        key, workspace_id = self.job_key, self._workspace_id
        async with self._backend.database.reads() as tx:
            row = await runs.find(tx, workspace_id, key)
            counts = await runs.counts(tx, workspace_id, row.job_key)
            found = RunOverview(
                id=row.workflow_id,
                job_key=row.job_key,
                name=(await load_dataset(tx, workspace_id, row.dataset_id)).name,
                status=row.status,
                reason=row.reason,
                created_at=row.created_at,
                ended_at=row.ended_at,
                **counts,
                labels=tuple(await runs.label_counts(tx, workspace_id, row.job_key)),
                statistics=Statistics.model_validate(row.statistics) if row.statistics else None,
                flows=tuple(await run_overview.flows(tx, workspace_id, row.job_key)),
                new_labels=tuple(await run_overview.new_labels(tx, workspace_id, row.job_key)),
                phases=tuple(await run_overview.phase_costs(tx, workspace_id, row.job_key)),
                consistency=await label_consistency.measure(tx, workspace_id, row.job_key, counts["sessions"]),
                costs=await usage.costs(tx, workspace_id, job_key=row.job_key),
                since=await _earlier(tx, row),
                compared=await _compared(tx, row),
            )
        status = await true_status(self._backend, workspace_id, found.id, found.job_key, found.status)
        return found.model_copy(update={"status": status})

    async def quoted_sessions(self) -> AsyncIterator[QuotedSession]:
        """Every session with its labels and words of its user, in the order of the file, read page by page."""
        last = -1
        while True:
            async with self._backend.database.reads() as tx:
                page = await run_overview.quoted_sessions(
                    tx, self._workspace_id, self.job_key, after=last, limit=EXPORT_PAGE
                )
            for position, session in page:
                last = position
                yield session
            if len(page) < EXPORT_PAGE:
                return

    async def examples(self, kind: LabelKind, label: str, *, after: int = -1, limit: int = 10) -> list[LabelledChat]:
        """Sessions with a canonical label, in the order of their file.

        Args:
            kind: the kind of the label.
            label: from `labels` of the report.
            after: the `position` of the last one of the page before; default: from the beginning.
            limit: the most sessions to return; default 10.
        """
        async with self._backend.database.reads() as tx:
            found = label_explorer.examples
            return await found(tx, self._workspace_id, self.job_key, kind, label, after=after, limit=limit)

    async def origins(self, kind: LabelKind, label: str) -> list[LabelOrigin]:
        """The labels that became a canonical label, itself included, with how each was merged.

        Args:
            kind: the kind of the label.
            label: from `labels` of the report.
        """
        async with self._backend.database.reads() as tx:
            return await label_explorer.origins(tx, self._workspace_id, self.job_key, kind, label)


async def _earlier(tx: AsyncSession, row: AutoRun) -> EarlierRun | None:
    """The run that a run goes on from; None if there is none, or it is purged."""
    key = row.settings.get("since")
    earlier = await tx.get(AutoRun, (row.workspace_id, key)) if key else None
    if earlier is None:
        return None
    dataset = await load_dataset(tx, row.workspace_id, earlier.dataset_id)
    own = await load_dataset(tx, row.workspace_id, row.dataset_id)
    counted = await runs.counts(tx, row.workspace_id, row.job_key)
    return EarlierRun(
        id=earlier.workflow_id,
        job_key=earlier.job_key,
        name=dataset.name,
        created_at=earlier.created_at,
        sessions=own.sessions - counted["sessions"],
        drift=await drift_of(tx, row.workspace_id, earlier.job_key, row.job_key),
    )


async def _compared(tx: AsyncSession, row: AutoRun) -> RunComparison | None:
    """A completed fork with the run that it repeats; None for any other run, and where that one is purged."""
    key = row.settings.get("fork_of")
    original = await tx.get(AutoRun, (row.workspace_id, key)) if key and row.status == "completed" else None
    return await comparison_of(tx, original, row) if original else None


async def drift_of(tx: AsyncSession, workspace_id: str, earlier: str, later: str) -> tuple[KindDrift, ...]:
    """The drift of each kind of label that one of two runs has."""
    found: list[KindDrift] = []
    for kind in LabelKind:
        first = await earlier_runs.sessions_of_labels(tx, workspace_id, earlier, kind)
        second = await earlier_runs.sessions_of_labels(tx, workspace_id, later, kind)
        if first or second:
            found.append(drift(kind, first, second))
    return tuple(found)


async def start_auto_analyze(
    backend: Backend,
    workspace_id: str,
    dataset_id: str,
    *,
    user_id: str,
    run_name: str,
    **options: Unpack[AutoAnalyzeOptions],
) -> AutoAnalyzeHandle:
    """Start the job on an imported dataset. `Client.auto_analyze` documents the arguments."""
    job = auto_analyze_input(backend.settings, workspace_id, dataset_id, user_id=user_id, **options)
    job = await continued(backend, job, options.get("since_analysis"))
    if labels := options.get("labels"):
        async with backend.database.transaction() as tx:
            await taxonomies.store(tx, workspace_id, Taxonomy.model_validate(labels))
    return await start_run(backend, job, run_name)


async def start_run(backend: Backend, job: AutoAnalyzeInput, run_name: str) -> AutoAnalyzeHandle:
    """Start a run with this input.

    Raises:
        NotFound: the workspace has no such dataset.
    """
    workspace_id, dataset_id = job.workspace_id, job.dataset_id
    async with backend.database.transaction() as tx:
        dataset = await load_dataset(tx, workspace_id, dataset_id)
    start = WorkflowStart(
        workflow=WORKFLOW,
        input=job,
        id=workflow_id(workspace_id, dataset_id, run_name),
        summary=f"{dataset.sessions} sessions of {dataset.name}",
        details=f"{job.streams} streams, seed {job.seed}, at most ${job.budget_usd}.",
        status="running",
    )
    started = await start_workflow(backend, workspace_id, start)
    return AutoAnalyzeHandle(backend, workspace_id, started.id, started.first_execution_run_id or "")


def auto_analyze_input(
    settings: Settings, workspace_id: str, dataset_id: str, *, user_id: str, **options: Unpack[AutoAnalyzeOptions]
) -> AutoAnalyzeInput:
    """The job's input: the options, completed by the settings.

    Raises:
        InvalidInput: an option is not valid; the error names the field.
        UnpricedModel: no price is known for the model.
    """
    given: dict[str, Any] = {**_defaults(settings), **options}
    labels, since = given.pop("labels", None), given.pop("since_analysis", None)
    if labels and since:
        raise InvalidInput("labels come from a file or from an earlier run: leave one out", where="since_analysis")
    given["provider"] = given.get("provider") or provider_of(given.get("model"), settings)
    try:
        if labels:
            taxonomy = Taxonomy.model_validate(labels)
            given |= {"taxonomy": taxonomy.id, "closed": taxonomy.closed_kinds}
        job = AutoAnalyzeInput(workspace_id=workspace_id, user_id=user_id, dataset_id=dataset_id, **given)
    except ValidationError as error:
        raise first_problem(error, where="auto-analyze") from None
    check_model(job.provider, job.model, settings)
    return job


async def continued(backend: Backend, job: AutoAnalyzeInput, job_id: str | None) -> AutoAnalyzeInput:
    """The input of a run that goes on from an earlier one, whose closed kinds stay closed.

    Raises:
        InvalidInput: the earlier run has not completed.
        NotFound: the workspace has no such run.
    """
    if not job_id:
        return job
    async with backend.database.reads() as tx:
        earlier = await runs.find(tx, job.workspace_id, job_id)
    if earlier.status != "completed":
        problem = f"is {earlier.status}: only a completed run has labels to start from"
        raise InvalidInput(problem, where="since_analysis", field=job_id)
    closed = tuple(map(LabelKind, earlier.settings.get("closed", ())))
    return job.model_copy(update={"since": earlier.job_key, "closed": closed})


async def estimate_run(backend: Backend, job: AutoAnalyzeInput, work: Workload) -> RunEstimate | None:
    """What a run will probably take with its own model, or else with the cheapest that the settings name."""

    async def seconds(provider: Provider, model: str) -> float | None:
        async with backend.database.reads() as tx:
            return await usage.seconds_per_token(tx, job.workspace_id, provider, model)

    return await cheapest_estimate(backend.settings, job, work, seconds)


async def cheapest_estimate(
    settings: Settings,
    job: AutoAnalyzeInput,
    work: Workload,
    seconds_per_token: Callable[[Provider, str], Awaitable[float | None]],
) -> RunEstimate | None:
    """As `estimate_run`. `seconds_per_token`: of the replies of a model; None where there are none."""
    named = {provider: settings.model_of(provider) for provider in CHAT_PROVIDERS}
    if job.provider is not None:
        named = {job.provider: job.model or settings.model_of(job.provider)}
    if job.processing == "batch":
        named = {provider: model for provider, model in named.items() if provider in BATCH_PROVIDERS}
    estimates: list[RunEstimate] = []
    for provider, model in named.items():
        with suppress(UnpricedModel):
            configured = ConfiguredRates.of(settings)
            rates, in_batches = rates_for(provider, model, configured), rates_for(provider, model, configured, 0, BATCH)
            speed = Speed(settings.requests_per_second(provider), await seconds_per_token(provider, model))
            # A million sessions take seconds.
            estimates.append(await asyncio.to_thread(estimate, work, job, provider, model, rates, speed, in_batches))
    return min(estimates, key=lambda one: one.estimated_usd, default=None)


async def workload(
    backend: Backend, job: AutoAnalyzeInput, source: Imported | Path, reading: ReadingOptions, given_labels: int
) -> Workload:
    """What a run on a file, or on an imported dataset, sends. Of a dataset only totals are read."""
    keys: list[str] = []
    if job.since is not None:
        async with backend.database.transaction(bulk=True) as tx:
            keys = await earlier_runs.lineage(tx, job.workspace_id, job.since)
            given_labels = len(await earlier_runs.final_labels(tx, job.workspace_id, job.since))
    if isinstance(source, Path):
        facts = await read_facts(source, **reading)
        async with backend.database.transaction(bulk=True) as tx:
            known = await earlier_runs.labelled_contents(tx, job.workspace_id, keys) if keys else set[Any]()
        new = [one for one in facts if (one.session_id, one.transcript_hash) not in known]
        return await asyncio.to_thread(workload_of, new, job, given_labels)
    return await _imported_workload(backend, job, source, keys, given_labels)


async def _imported_workload(
    backend: Backend, job: AutoAnalyzeInput, source: Imported, keys: Sequence[str], given_labels: int
) -> Workload:
    workspace_id, dataset_id = job.workspace_id, source.dataset_id
    async with backend.database.transaction(bulk=True) as tx:
        copies = await count_copies(tx, workspace_id, dataset_id)
        known = await earlier_runs.labelled_positions(tx, workspace_id, dataset_id, keys) if keys else set[int]()
    left = source.sessions - len(known)
    share = left / max(source.sessions, 1)
    work = left, int(source.tokens * share), int(copies * share), job, given_labels
    return await asyncio.to_thread(even_workload, *work)


def _defaults(settings: Settings) -> AutoAnalyzeOptions:
    quota = settings.sessions_per_stream
    return {
        "streams": settings.parallel_stream_count,
        "sessions_per_stream": None if quota == "auto" else quota,
        "max_staleness": None if settings.max_staleness == "continuous" else settings.max_staleness,
        "debug": settings.parallel_processing_debug,
        "discovery": DiscoveryTerms(
            target_percentage=settings.discovery_target_percentage,
            min_sessions=settings.discovery_min_sessions,
            max_sessions=settings.discovery_max_sessions,
        ),
    }


async def labelled_sessions(backend: Backend, workspace_id: str, job_id: str) -> AsyncIterator[ExportedSession]:
    """Every session of a run in the order of its file, page by page. `Client.labelled_sessions` documents it."""
    async with backend.database.transaction() as tx:
        run = await runs.find(tx, workspace_id, job_id)
    last = -1
    while True:
        async with backend.database.transaction() as tx:
            page = await runs.export_rows(tx, workspace_id, run.job_key, after=last, limit=EXPORT_PAGE)
        for position, session in page:
            last = position
            yield session
        if len(page) < EXPORT_PAGE:
            return
