"""The job `AutoAnalyze`: check its options, start it, follow it, read its report and its labels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from decimal import Decimal
from typing import Any, TypedDict, Unpack

from pydantic import ValidationError

from parley.client.backend import Backend, WorkflowStart, start_workflow
from parley.client.importing import Imported
from parley.client.jobs import JobHandle, check_model, provider_of, true_status
from parley.client.reading import first_problem
from parley.domain.auto_analyze.contract import (
    WORKFLOW,
    AutoAnalyzeInput,
    AutoAnalyzeProgress,
    DiscoveryTerms,
    ExportedSession,
    LabelCount,
    LabelKind,
    LabelledChat,
    LabelOrigin,
    Statistics,
    workflow_id,
)
from parley.domain.auto_analyze.estimate import RunEstimate, estimated_usd
from parley.domain.costs import Costs
from parley.domain.errors import UnpricedModel
from parley.domain.model import Model
from parley.domain.pricing import ConfiguredRates, rates_for
from parley.domain.requests import Provider
from parley.settings import Settings
from parley.storage import auto_analyze as runs
from parley.storage import label_explorer, usage
from parley.storage.datasets import load_dataset

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
    debug: bool
    """Log each round. Default: PARALLEL_PROCESSING_DEBUG."""


class AutoAnalyzeReport(Model):
    """A labelling run as it is now.

    `labels`: canonical labels with the number of their sessions. `statistics` is None until the run has ended.
    `reason`: why it failed or was cancelled.
    """

    id: str
    job_key: str
    status: str
    reason: str = ""
    dataset_id: str
    statistics: Statistics | None
    labels: tuple[LabelCount, ...]
    costs: Costs


class AutoAnalyzeHandle(JobHandle[AutoAnalyzeProgress, AutoAnalyzeReport]):
    """A running or ended `AutoAnalyze`."""

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
            costs=spent,
        )

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
    given["provider"] = given.get("provider") or provider_of(given.get("model"), settings)
    try:
        job = AutoAnalyzeInput(workspace_id=workspace_id, user_id=user_id, dataset_id=dataset_id, **given)
    except ValidationError as error:
        raise first_problem(error, where="auto-analyze") from None
    check_model(job.provider, job.model, settings)
    return job


def estimate_run(settings: Settings, job: AutoAnalyzeInput, dataset: Imported) -> RunEstimate | None:
    """The estimated cost of a run, of its own model or else of the cheapest that the settings name."""
    models = {
        Provider.ANTHROPIC: settings.anthropic_model,
        Provider.OPENAI: settings.openai_model,
        Provider.LOCAL: settings.local_model,
    }
    named = {job.provider: job.model or models[job.provider]} if job.provider else models
    estimates: list[RunEstimate] = []
    for provider, model in named.items():
        with suppress(UnpricedModel):
            rates = rates_for(provider, model, ConfiguredRates.of(settings))
            usd = estimated_usd(dataset.sessions, dataset.tokens, rates)
            estimates.append(RunEstimate(provider=provider, model=model, estimated_usd=usd))
    return min(estimates, key=lambda estimate: estimate.estimated_usd, default=None)


def _defaults(settings: Settings) -> AutoAnalyzeOptions:
    quota = settings.sessions_per_stream
    return {
        "streams": settings.parallel_stream_count,
        "sessions_per_stream": None if quota == "auto" else quota,
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
