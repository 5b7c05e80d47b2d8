"""Delete answers that expired long ago, prompts that no running workflow can need, and the summaries of prompts.

A conversation that continues after its summary is deleted is condensed again.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.client import Client

from activities.boundary import boundary
from parley.domain.generate import contract, quality
from parley.domain.housekeeping import PurgeInput, PurgeReport
from parley.storage import cache, generations, summaries
from parley.storage.database import Database

# A prompt is stored by the client just before it starts the workflow, or by the workflow itself.
STARTED_AFTER_STORING = timedelta(days=1)
READ_PROMPTS = f"WorkflowType IN ('{contract.WORKFLOW}', '{quality.WORKFLOW}')"


class PurgeActivities:
    def __init__(self, database: Database, client: Client, stale_days: int) -> None:
        self._database, self._client, self._stale_after = database, client, timedelta(days=stale_days)

    @activity.defn(name="purge")
    @boundary
    async def purge(self, job: PurgeInput) -> PurgeReport:
        """Delete what is old enough in every workspace, in batches, so that no lock is held for long."""
        old = job.at - self._stale_after
        # A workflow that is about to start, or that the list does not show yet, may need what was stored just now.
        settled = min(old, job.at - STARTED_AFTER_STORING)
        unneeded = await self._stored_before_any_running(settled)
        return PurgeReport(
            answers=await self._in_batches(lambda tx: cache.purge(tx, old, limit=job.batch), job.batch),
            summaries=await self._in_batches(lambda tx: summaries.purge(tx, settled, limit=job.batch), job.batch),
            prompts=await self._in_batches(
                lambda tx: generations.purge_prompts(tx, unneeded, limit=job.batch), job.batch
            ),
        )

    async def _stored_before_any_running(self, old: datetime) -> datetime:
        """The time before which no running workflow's prompt was last stored."""
        started = f"StartTime <= '{(old + STARTED_AFTER_STORING).isoformat()}'"
        query = f"ExecutionStatus = 'Running' AND {READ_PROMPTS} AND {started}"
        starts = [found.start_time async for found in self._client.list_workflows(query)]
        return min([old, *(start - STARTED_AFTER_STORING for start in starts)])

    async def _in_batches(self, delete: Callable[[AsyncSession], Awaitable[int]], batch: int) -> int:
        total, deleted = 0, batch
        while deleted == batch:
            async with self._database.transaction() as tx:
                deleted = await delete(tx)
            total += deleted
        return total
