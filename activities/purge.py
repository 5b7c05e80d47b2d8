"""Delete what nobody will ask for again: answers long expired, and prompts that no running workflow can need.

With the prompts go the summaries that were kept of them: a conversation that is taken up again is condensed anew.
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

# A prompt is stored by whoever starts its workflow, right before, or by the workflow itself.
STARTED_AFTER_STORING = timedelta(days=1)
READ_PROMPTS = f"WorkflowType IN ('{contract.WORKFLOW}', '{quality.WORKFLOW}')"


class PurgeActivities:
    def __init__(self, database: Database, client: Client, stale_days: int) -> None:
        self._database, self._client, self._kept = database, client, timedelta(days=stale_days)

    @activity.defn(name="purge")
    @boundary
    async def purge(self, job: PurgeInput) -> PurgeReport:
        """Everything of every workspace that is old enough, a batch at a time: no lock is held for long."""
        old = job.at - self._kept
        unneeded = await self._stored_before_any_running(old)
        return PurgeReport(
            answers=await self._in_batches(lambda tx: cache.purge(tx, old, limit=job.batch), job.batch),
            summaries=await self._in_batches(lambda tx: summaries.purge(tx, old, limit=job.batch), job.batch),
            prompts=await self._in_batches(
                lambda tx: generations.purge_prompts(tx, unneeded, limit=job.batch), job.batch
            ),
        )

    async def _stored_before_any_running(self, old: datetime) -> datetime:
        """No workflow that runs was given a prompt which was last stored before this."""
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
