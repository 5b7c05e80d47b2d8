"""What all jobs share: a handle that follows and cancels one, its true status, and the model that a caller names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, Generic, TypeVar

from temporalio.client import WorkflowHandle

from parley.client.backend import Backend, describe_workflow, find_workflow, job_key_of, status_of, temporal_errors
from parley.domain.capabilities import is_embedding_model
from parley.domain.errors import InvalidInput, NotFound, UnpricedModel
from parley.domain.pricing import ConfiguredRates, rates_for
from parley.domain.requests import CHAT_PROVIDERS, Provider
from parley.settings import Settings

ProgressT = TypeVar("ProgressT")
ReportT = TypeVar("ReportT")


class JobHandle(ABC, Generic[ProgressT, ReportT]):
    """One job of a workspace.

    Attributes:
        id: the job's workflow id. `client.job(id)` finds the latest job under it, from any process.
        job_key: the key of exactly this job; it stays the same when the job continues as new.
    """

    def __init__(self, backend: Backend, workspace_id: str, job_id: str, job_key: str) -> None:
        self._backend, self._workspace_id, self.id, self.job_key = backend, workspace_id, job_id, job_key

    @abstractmethod
    async def progress(self) -> ProgressT:
        """How far the job is.

        Raises:
            NotFound: there is no such job.
            Unreachable: Temporal or the job's worker does not answer.
        """

    @abstractmethod
    async def report(self) -> ReportT:
        """The job as the database has it now, finished or not.

        Raises:
            NotFound: there is no such job.
        """

    async def result(self) -> ReportT:
        """Wait until the job ends, and return its report.

        Raises:
            JobFailed: it failed or was cancelled; `reason` is the code of the error.
            NotFound: there is no such job.
            Unreachable: Temporal does not answer.
        """
        workflow = await self._workflow()
        with temporal_errors():
            await workflow.result()
        return await self.report()

    async def cancel(self) -> None:
        """Request that the job stops. Results that are paid for stay stored.

        Raises:
            InvalidInput: it has ended already.
            NotFound: there is no such job.
            Unreachable: Temporal does not answer.
        """
        found = await describe_workflow(self._backend, self._workspace_id, self.id)
        status = status_of(found) if job_key_of(found) == self.job_key else "ended"
        if status != "running":
            raise InvalidInput(f"is {status} and cannot be cancelled; its results stay stored", where=self.id)
        workflow = await self._workflow()
        ended = NotFound(f"{self.id} has just ended and cannot be cancelled; its results stay stored")
        with temporal_errors(missing=ended):
            await workflow.cancel()

    async def _workflow(self) -> WorkflowHandle[Any, Any]:
        return await find_workflow(self._backend, self._workspace_id, self.id, self.job_key)

    async def _query_progress(self, kind: type[ProgressT]) -> ProgressT:
        workflow = await self._workflow()
        with temporal_errors("the job's worker does not answer"):
            return await workflow.query("get_progress", result_type=kind)


async def true_status(backend: Backend, workspace_id: str, job_id: str, job_key: str, stored: str) -> str:
    """A job's status. A terminated workflow runs no code and leaves its row `running`, so Temporal decides then."""
    if stored != "running":
        return stored
    try:
        found = await describe_workflow(backend, workspace_id, job_id)
    except NotFound:
        return "terminated"
    return status_of(found) if job_key_of(found) == job_key else "terminated"


def provider_of(model: str | None, settings: Settings) -> Provider | None:
    """The first provider that has a price for the model; None where no model is named.

    Raises:
        UnpricedModel: no provider has one.
    """
    if model is None:
        return None
    for provider in CHAT_PROVIDERS:
        with suppress(UnpricedModel):
            check_model(provider, model, settings)
            return provider
    raise UnpricedModel(f"no provider has a price for model {model!r}: name its provider (--provider)")


def check_model(provider: Provider | None, model: str | None, settings: Settings) -> None:
    """Check that the provider has a price for the model's answers.

    Raises:
        UnpricedModel: it has none.
    """
    if provider is not None and model is not None:
        if is_embedding_model(provider, model):
            raise UnpricedModel(f"{provider.value} model {model!r} makes embeddings, and answers no chats")
        rates_for(provider, model, ConfiguredRates.of(settings))
