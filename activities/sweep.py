"""End what dead owners left open: their attempts are lost, their reservations free."""

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import boundary
from domain.sweep import SweepInput, SweepReport
from storage import ledger
from storage.database import Database
from storage.sweeper import StaleCall, stale_calls


class SweepActivities:
    def __init__(self, database: Database, client: Client) -> None:
        self._database = database
        self._client = client

    @activity.defn(name="sweep")
    @boundary
    async def sweep(self, job: SweepInput) -> SweepReport:
        """One batch. A request of a running workflow is left to its retry until its reservation expires."""
        async with self._database.transaction() as tx:
            stale = await stale_calls(tx, limit=job.batch)
        running: dict[str, bool] = {}
        ended = 0
        for call in stale:
            if call.job_key not in running:
                running[call.job_key] = await self._is_running(call)
            if call.expired or not running[call.job_key]:
                ended += await self._end(call)
        return SweepReport(looked_at=len(stale), ended=ended)

    async def _is_running(self, call: StaleCall) -> bool:
        """Whether the workflow execution that the request belongs to is open: the same job, not a later one."""
        handle = self._client.get_workflow_handle(call.workflow_id, first_execution_run_id=call.job_key)
        try:
            found = await handle.describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        started = found.raw_description.workflow_execution_info.first_run_id
        return found.status is WorkflowExecutionStatus.RUNNING and started in ("", call.job_key)

    async def _end(self, call: StaleCall) -> bool:
        async with self._database.transaction() as tx:
            return await ledger.end_stale(tx, call.workspace_id, call.request_id)
