"""End what dead owners left open: their attempts are lost, their reservations free."""

from collections.abc import AsyncIterator

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import boundary
from parley.domain.generate.quality import is_shared
from parley.domain.housekeeping import SweepInput, SweepReport
from parley.storage import ledger
from parley.storage.database import Database
from parley.storage.sweep import StaleRequest, stale_requests


class SweepActivities:
    def __init__(self, database: Database, client: Client) -> None:
        self._database = database
        self._client = client

    @activity.defn(name="sweep")
    @boundary
    async def sweep(self, job: SweepInput) -> SweepReport:
        """One round. A request of a running workflow is left to its retry until its reservation expires."""
        running: dict[tuple[str, str], bool] = {}
        looked_at = ended = 0
        async for call in self._stale(page=job.batch):
            looked_at += 1
            owner = (call.workflow_id, call.job_key)
            if owner not in running:
                running[owner] = await self._is_running(call)
            if call.expired or not running[owner]:
                ended += await self._end(call)
        return SweepReport(looked_at=looked_at, ended=ended)

    async def _stale(self, page: int) -> AsyncIterator[StaleRequest]:
        """All of them, page by page: those that are left alone must not stand before the others for ever."""
        last: StaleRequest | None = None
        while True:
            async with self._database.transaction() as tx:
                calls = await stale_requests(tx, limit=page, after=last)
            for call in calls:
                yield call
            if len(calls) < page:
                return
            last = calls[-1]

    async def _is_running(self, call: StaleRequest) -> bool:
        """Whether the workflow execution that the request belongs to is open: the same job, not a later one.

        A job key that many workflows share names no run; the ids of these workflows are used once.
        """
        handle = self._client.get_workflow_handle(call.workflow_id)
        try:
            found = await handle.describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        started = found.raw_description.workflow_execution_info.first_run_id
        is_same = is_shared(call.job_key) or started in ("", call.job_key)
        return found.status is WorkflowExecutionStatus.RUNNING and is_same

    async def _end(self, call: StaleRequest) -> bool:
        async with self._database.transaction() as tx:
            return await ledger.end_stale(tx, call.workspace_id, call.request_id)
