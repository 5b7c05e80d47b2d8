"""End the paid requests of dead owners: mark their attempts as lost, and release their reservations."""

from collections.abc import AsyncIterator

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import boundary
from parley.domain.conversation.contract import workflows_of
from parley.domain.generate.contract import is_derived
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
        """Check all stale requests. Those of a running workflow are left to its retry until the reservation expires."""
        running: dict[tuple[str, str], bool] = {}
        checked = ended = 0
        async for request in self._stale(page=job.batch):
            checked += 1
            owner = (request.workflow_id, request.job_key)
            if owner not in running:
                running[owner] = await self._is_running(request)
            if request.expired or not running[owner]:
                ended += await self._end(request)
        return SweepReport(looked_at=checked, ended=ended)

    async def _stale(self, page: int) -> AsyncIterator[StaleRequest]:
        """All stale requests, page by page, so that those that are left alone do not hide the others."""
        last: StaleRequest | None = None
        while True:
            async with self._database.transaction() as tx:
                found = await stale_requests(tx, limit=page, after=last)
            for request in found:
                yield request
            if len(found) < page:
                return
            last = found[-1]

    async def _is_running(self, request: StaleRequest) -> bool:
        """Whether the workflow run that the request belongs to is open: the same job, not a later one with its id.

        A job key that many workflows share does not name a run; the ids of such workflows are used only once. A job key
        that is derived from the workflow's id names all of its runs.
        """
        ids = workflows_of(request.workflow_id)
        return any([await self._is_open(workflow_id, request) for workflow_id in ids])

    async def _is_open(self, workflow_id: str, request: StaleRequest) -> bool:
        try:
            found = await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        started = found.raw_description.workflow_execution_info.first_run_id
        is_same = is_shared(request.job_key) or is_derived(request.job_key) or started in ("", request.job_key)
        return found.status is WorkflowExecutionStatus.RUNNING and is_same

    async def _end(self, request: StaleRequest) -> bool:
        async with self._database.transaction() as tx:
            return await ledger.end_stale(tx, request.workspace_id, request.request_id)
