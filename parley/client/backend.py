"""`Backend`: the connections of one process, and everything that its clients do through Temporal.

All access to workflows goes through the functions of this module: they record the workspace of every workflow that they
start, find a workflow only within its workspace, and translate Temporal's errors into Parley's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

import temporalio.client
from pydantic import SecretStr
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle, WorkflowQueryFailedError
from temporalio.common import (
    Priority,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import TimeoutError
from temporalio.service import RPCError, RPCStatusCode

from parley import visibility
from parley.connection import connect, known_codec_keys, running_stack
from parley.correlation import correlation
from parley.domain.conversation.contract import workflows_of
from parley.domain.errors import InvalidInput, NotFound, ParleyError, Unreachable
from parley.domain.model import Model
from parley.domain.queues import WORKFLOWS, fairness_key
from parley.domain.streaming import StreamBroken
from parley.failures import job_failure
from parley.settings import Settings
from parley.storage.database import Database
from parley.streams.hub import PROCESS_HUB, ProcessReceiver, StreamReceiver
from parley.streams.receiver import OnBroken, SocketReceiver

if TYPE_CHECKING:
    from parley.client.client import Client

POOL_SIZE = 5

ResultT = TypeVar("ResultT")


class Backend:
    """Connections to Temporal and PostgreSQL that serve any number of workspaces.

    Open one per process with `async with await Backend.connect() as backend`, or build one of connections that are open
    already with `Backend(temporal, database, settings)`.
    """

    def __init__(
        self,
        temporal: temporalio.client.Client,
        database: Database,
        settings: Settings,
        receiver: StreamReceiver | None = None,
    ) -> None:
        """Args: receiver: of streamed answers; default: workers of this process stream to it. `close` closes it."""
        self.temporal, self.database, self.settings = temporal, database, settings
        self.receiver = receiver or ProcessReceiver(PROCESS_HUB)
        self.admissions: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """By workflow: lets as many updates through as the workflow takes, in their order."""

    @classmethod
    async def connect(cls, settings: Settings | None = None, temporal_address: str | None = None) -> Self:
        """Connect to PostgreSQL and Temporal.

        Without DATABASE_URL the addresses and keys of the stack that `parley up` runs on this machine are used.

        Args:
            settings: default: read from the environment.
            temporal_address: `host:port`; default: TEMPORAL_ADDRESS, or a profile of Temporal's TOML configuration.

        Raises:
            InvalidInput: DATABASE_URL or PARLEY_CODEC_KEYS is missing or wrong.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        settings = settings or Settings()
        stack = running_stack(settings.state_dir) if settings.database_url is None else None
        if stack is not None:
            keys = known_codec_keys(settings.codec_keys, stack)
            changes = {"database_url": SecretStr(stack.database_url), "codec_keys": keys, **stack.twilio}
            settings = settings.model_copy(update=changes)
        of_stack = stack is not None and temporal_address is None
        if stack is not None and of_stack:
            temporal_address = stack.temporal_address
        if settings.database_url is None:
            raise InvalidInput(
                "is not set, and no `parley up` runs here: start it, or set an address such as "
                "postgresql://user:password@localhost:5432/parley",
                where="DATABASE_URL",
            )
        database = Database(settings.database_url, pool_size=POOL_SIZE)
        try:
            await database.ping()
            temporal = await connect(temporal_address, codec_keys=settings.codec_keys, of_stack=of_stack)
        except BaseException:
            await database.close()
            raise
        receiver = SocketReceiver(PROCESS_HUB, settings, reporting_broken_streams(temporal))
        return cls(temporal, database, settings, receiver)

    def client(self, workspace_id: str = "default") -> Client:
        """A client of one workspace. It shares these connections: closing it does not close them.

        Args:
            workspace_id: the workspace that the client reads and writes: 1 to 200 characters without a slash.

        Raises:
            InvalidInput: the workspace id is not valid.
        """
        # At the top of the module this would be circular: a client takes a backend, and everything below it does too.
        from parley.client.client import Client  # noqa: PLC0415

        return Client(self, workspace_id)

    async def close(self) -> None:
        """Close the database connections; Temporal's ends with the process. The clients cannot be used any more."""
        await self.receiver.close()
        await self.database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def reporting_broken_streams(temporal: temporalio.client.Client) -> OnBroken:
    """What a receiver does about a worker that is gone: the workflow of the stream starts its step again at once.

    A stream that has no workflow, or whose workflow has ended, needs nothing.
    """

    async def report(workspace_id: str, stream_id: str, attempt: int) -> None:  # noqa: ARG001 - in the stream's id
        broken = StreamBroken(attempt=attempt, stream_id=stream_id)
        for workflow_id in workflows_of(stream_id):
            with suppress(NotFound), temporal_errors(missing=NotFound(f"no workflow {workflow_id!r}")):
                await temporal.get_workflow_handle(workflow_id).signal("stream_broken", broken)
                return

    return report


@dataclass(frozen=True)
class WorkflowStart:
    """A workflow to start: its name, its input, and what an operator sees of it. `status`: its search attribute.

    task_timeout: after this a worker that took a workflow task and has said nothing counts as dead; None: 10 s.
    """

    workflow: str
    input: Model
    id: str
    summary: str
    details: str | None = None
    status: str | None = None
    memo: Mapping[str, Any] = field(default_factory=dict[str, Any])
    id_reuse_policy: WorkflowIDReusePolicy = WorkflowIDReusePolicy.ALLOW_DUPLICATE
    id_conflict_policy: WorkflowIDConflictPolicy = WorkflowIDConflictPolicy.USE_EXISTING
    task_timeout: timedelta | None = None


async def start_workflow(
    backend: Backend, workspace_id: str, start: WorkflowStart, result_type: type[ResultT] | None = None
) -> WorkflowHandle[Any, ResultT]:
    """Start a workflow in a workspace.

    Raises:
        WorkflowAlreadyStartedError: the policies of `start` do not allow its id again.
        Unreachable: Temporal does not answer, or refuses to start it.
    """
    with temporal_errors("Temporal refused to start the job"):
        return await backend.temporal.start_workflow(
            start.workflow, start.input, result_type=result_type, **_shown(workspace_id, start)
        )


async def update_with_start(
    backend: Backend,
    workspace_id: str,
    start: WorkflowStart,
    update: str,
    given: Model,
    *,
    update_id: str,
    result_type: type[ResultT],
) -> ResultT:
    """Send an update to a workflow of a workspace, and wait for its result. The workflow is started if it does not run.

    The same update id is the same update, while one run of the workflow lasts.

    Raises:
        RPCError: Temporal does not answer, or has too many updates of the workflow in progress.
        WorkflowUpdateFailedError: the workflow refused the update, or the update failed.
        WorkflowUpdateRPCTimeoutOrCancelledError: the wait for the result ended.
    """
    operation = temporalio.client.WithStartWorkflowOperation[Any, Any](
        start.workflow, start.input, **_shown(workspace_id, start)
    )
    try:
        return await backend.temporal.execute_update_with_start_workflow(
            update, given, start_workflow_operation=operation, id=update_id, result_type=result_type
        )
    except BaseException:
        # The operation's handle has the same error. Unless it is read there too, the event loop logs it.
        handle = asyncio.ensure_future(operation.workflow_handle())
        handle.add_done_callback(lambda known: known.cancelled() or known.exception())
        raise


def _shown(workspace_id: str, start: WorkflowStart) -> dict[str, Any]:
    """The options of a start: the ids and policies, and what an operator and the fairness between workspaces need."""
    return {
        "id": start.id,
        "task_queue": WORKFLOWS,
        "priority": Priority(fairness_key=fairness_key(workspace_id)),
        "id_reuse_policy": start.id_reuse_policy,
        "id_conflict_policy": start.id_conflict_policy,
        "task_timeout": start.task_timeout,
        "memo": {**start.memo, **correlation.get()},
        "search_attributes": visibility.of_start(workspace_id, start.workflow, start.status),
        "static_summary": visibility.plain(start.summary[:200]),
        "static_details": start.details,
    }


async def execute_workflow(
    backend: Backend,
    workflow: str,
    given: Model,
    result_type: type[ResultT],
    *,
    name: str,
    time_limit: timedelta | None = None,
) -> ResultT:
    """Run a short workflow to its end, under a new id that begins with `name`.

    Raises:
        JobFailed: it ended without a result.
        Unreachable: Temporal does not answer, or no worker finished it within `time_limit`.
    """
    with temporal_errors():
        return await backend.temporal.execute_workflow(
            workflow,
            given,
            id=f"{name}/{uuid4().hex}",
            task_queue=WORKFLOWS,
            result_type=result_type,
            execution_timeout=time_limit,
        )


async def describe_workflow(
    backend: Backend, workspace_id: str, job_id: str
) -> temporalio.client.WorkflowExecutionDescription:
    """The description of a workspace's workflow. Knowing the id of another workspace's is not enough.

    Raises:
        NotFound: the workspace has no such job.
        Unreachable: Temporal does not answer.
    """
    missing = NotFound(f"workspace {workspace_id!r} has no job {job_id!r}")
    with temporal_errors(missing=missing):
        found = await backend.temporal.get_workflow_handle(job_id).describe()
    if found.typed_search_attributes.get(visibility.WORKSPACE) != workspace_id:
        raise missing
    return found


async def find_workflow(
    backend: Backend, workspace_id: str, job_id: str, job_key: str | None = None
) -> WorkflowHandle[Any, Any]:
    """Temporal's handle of a workspace's job: of the run chain `job_key`, by default of the latest under the id.

    Raises:
        NotFound: the workspace has no such job.
        Unreachable: Temporal does not answer.
    """
    await describe_workflow(backend, workspace_id, job_id)
    return backend.temporal.get_workflow_handle(job_id, first_execution_run_id=job_key)


@contextmanager
def temporal_errors(problem: str = "Temporal does not answer", *, missing: NotFound | None = None) -> Iterator[None]:
    """Translate Temporal's errors into Parley's.

    Args:
        problem: what an RPC error means here.
        missing: raised in place of `Unreachable` where Temporal knows no workflow of that id.

    Raises:
        JobFailed: a workflow ended without a result.
        Unreachable: Temporal or a worker does not answer.
    """
    try:
        yield
    except WorkflowFailureError as error:
        raise failure_of(error) from error
    except WorkflowQueryFailedError as error:
        raise Unreachable(f"the job's worker does not answer: {error}") from error
    except RPCError as error:
        if missing is not None and error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise missing from None
        raise Unreachable(f"{problem}: {error.message}") from error


def failure_of(error: WorkflowFailureError) -> ParleyError:
    """Why a workflow ended without a result: the outermost failure that has one of Parley's error codes."""
    if isinstance(error.cause, TimeoutError):
        return Unreachable(f"no answer from the queue {WORKFLOWS!r} within the time limit: is a worker up?")
    return job_failure(error.cause)


def status_of(found: temporalio.client.WorkflowExecutionDescription) -> str:
    """Temporal's status in Parley's spelling, for example `running` or `cancelled`."""
    return (found.status or WorkflowExecutionStatus.RUNNING).name.lower().replace("canceled", "cancelled")


def job_key_of(found: temporalio.client.WorkflowExecutionDescription) -> str:
    """A job's key: the id of its first run, which stays the same when the job continues as new."""
    return found.raw_description.workflow_execution_info.first_run_id or found.run_id
