"""Ask the workers how the providers are."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from temporalio.client import WorkflowFailureError
from temporalio.common import Priority
from temporalio.exceptions import TimeoutError
from temporalio.service import RPCError

from parley.client.jobs import failure_of
from parley.domain.errors import Unreachable
from parley.domain.health import WORKFLOW, HealthInput, HealthReport
from parley.domain.queues import WORKFLOWS, fairness_key

if TYPE_CHECKING:
    from parley.client.client import Client

# Longer than every question in it may take.
LIMIT = timedelta(seconds=25)


async def health(client: Client) -> HealthReport:
    """Run one `Health`.

    Raises:
        JobFailed: it ended without a result.
        Unreachable: Temporal does not answer, or has no worker.
    """
    try:
        return await client.temporal.execute_workflow(
            WORKFLOW,
            HealthInput(workspace_id=client.workspace_id),
            id=f"health/{client.workspace_id}/{uuid4().hex}",
            task_queue=WORKFLOWS,
            result_type=HealthReport,
            execution_timeout=LIMIT,
            priority=Priority(fairness_key=fairness_key(client.workspace_id)),
        )
    except WorkflowFailureError as error:
        if isinstance(error.cause, TimeoutError):
            seconds = LIMIT.total_seconds()
            raise Unreachable(
                f"no answer from the queue {WORKFLOWS!r} within {seconds:.0f} s: is a worker up?"
            ) from None
        raise failure_of(error) from error
    except RPCError as error:
        raise Unreachable(f"Temporal does not answer: {error.message}") from error
