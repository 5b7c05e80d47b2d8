"""Handles of running or finished jobs, and the reports that they end in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, is_cancelled_exception
from temporalio.service import RPCError

from parley.domain.auto_analyze.contract import AutoAnalyzeProgress, LabelCount, Statistics
from parley.domain.costs import Costs
from parley.domain.errors import JobFailed, Unreachable
from parley.domain.model import Model
from parley.domain.session_analysis import Analysis, Progress

if TYPE_CHECKING:
    from parley.client.client import Client


class AnalysisReport(Model):
    """A `SessionAnalysis` as it stands: `analysis` is None until it is completed; the costs are the ledger's own."""

    id: str
    job_key: str
    status: str
    session_id: str
    user_id: str
    analysis: Analysis | None
    costs: Costs


class AutoAnalyzeReport(Model):
    """An `AutoAnalyze` as it stands. `labels`: canonical labels with their sessions; `statistics` once it has ended."""

    id: str
    job_key: str
    status: str
    dataset_id: str
    statistics: Statistics | None
    labels: tuple[LabelCount, ...]
    costs: Costs


ProgressT = TypeVar("ProgressT")
ReportT = TypeVar("ReportT")


class JobHandle(ABC, Generic[ProgressT, ReportT]):
    """One job. `id` finds the latest job under that id from anywhere, `job_key` this very one."""

    def __init__(self, client: Client, job_id: str, job_key: str) -> None:
        self._client, self.id, self.job_key = client, job_id, job_key

    @abstractmethod
    async def progress(self) -> ProgressT:
        """Where the job stands.

        Raises:
            NotFound: there is no such job.
        """

    @abstractmethod
    async def report(self) -> ReportT:
        """The job as it stands in the database.

        Raises:
            NotFound: there is no such job.
        """

    async def result(self) -> ReportT:
        """Wait for the job to end and return its report.

        Raises:
            JobFailed: it failed or was cancelled; `kind` says why.
            NotFound: there is no such job.
        """
        try:
            await (await self._client.workflow(self.id, self.job_key)).result()
        except WorkflowFailureError as error:
            raise failure_of(error) from error
        except RPCError as error:
            raise Unreachable(f"Temporal does not answer: {error.message}") from error
        return await self.report()

    async def cancel(self) -> None:
        """Ask the job to stop. What it has paid for is kept."""
        await (await self._client.workflow(self.id, self.job_key)).cancel()


class AnalysisHandle(JobHandle[Progress, AnalysisReport]):
    """A `SessionAnalysis`."""

    async def progress(self) -> Progress:
        return await self._client.query_progress(self.id, Progress, self.job_key)

    async def report(self) -> AnalysisReport:
        return await self._client.analysis_report(self.job_key)


class AutoAnalyzeHandle(JobHandle[AutoAnalyzeProgress, AutoAnalyzeReport]):
    """An `AutoAnalyze`."""

    async def progress(self) -> AutoAnalyzeProgress:
        return await self._client.query_progress(self.id, AutoAnalyzeProgress, self.job_key)

    async def report(self) -> AutoAnalyzeReport:
        return await self._client.auto_analyze_report(self.job_key)


def failure_of(error: WorkflowFailureError) -> JobFailed:
    """Why a workflow ended without a result, by the outermost failure that Parley named."""
    if is_cancelled_exception(error.cause):
        return JobFailed("Cancelled", "the job was cancelled; what it paid for is kept")
    cause: BaseException | None = error.cause
    while cause is not None and not (isinstance(cause, ApplicationError) and cause.type):
        cause = cause.__cause__
    if isinstance(cause, ApplicationError):
        return JobFailed(cause.type or "", cause.message)
    return JobFailed(type(error.cause).__name__, str(error.cause))
