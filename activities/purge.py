"""Delete rows that are old: answers, prompts, summaries, events, streams, conversations, and all that is left of jobs.

Where a workspace keeps content for a shorter time than the fleet, its content is removed, and its rows of money stay.

A conversation that continues after its summary is deleted is condensed again.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError

from activities.boundary import boundary
from activities.events import Webhook
from parley.domain import session_analysis
from parley.domain.auto_analyze import contract as auto_analyze
from parley.domain.errors import ParleyError
from parley.domain.generate import contract, quality
from parley.domain.housekeeping import PurgeInput, PurgeReport
from parley.settings import Settings
from parley.storage import (
    cache,
    configuration,
    conversations,
    forgetting,
    generations,
    outbox,
    retention,
    streams,
    summaries,
)
from parley.storage.database import Database
from parley.storage.retention import RESULTS, Old
from parley.storage.tables import OutboxEvent

# A prompt is stored by the client just before it starts the workflow, or by the workflow itself.
STARTED_AFTER_STORING = timedelta(days=1)
# How long a reader may come back to a stream that has ended; after that it gets the result.
READ_AGAIN = timedelta(hours=1)
# The event that says which content a workspace's retention has removed.
REMOVED = "content_removed"
READ_PROMPTS = f"WorkflowType IN ('{contract.WORKFLOW}', '{quality.WORKFLOW}')"
JOBS = (contract.WORKFLOW, quality.WORKFLOW, session_analysis.WORKFLOW, auto_analyze.WORKFLOW)
RUNNING_JOBS = f"ExecutionStatus = 'Running' AND WorkflowType IN ({', '.join(map(repr, JOBS))})"


class PurgeActivities:
    def __init__(self, database: Database, client: Client, settings: Settings) -> None:
        self._database, self._client, self._settings = database, client, settings

    @activity.defn(name="purge")
    @boundary
    async def purge(self, job: PurgeInput) -> PurgeReport:
        """Delete what is old enough in every workspace, in batches, so that no lock is held for long."""
        old = job.at - timedelta(days=self._settings.cache_stale_days)
        # A workflow that is about to start, or that the list does not show yet, may need what was stored just now.
        settled = min(old, job.at - STARTED_AFTER_STORING)
        unneeded = await self._stored_before_any_running(settled)
        old_jobs = await self._old_jobs(job)
        # Answers, summaries and results name replies, which are deleted after them.
        return PurgeReport(
            answers=await self._in_batches(lambda tx: cache.purge(tx, old, limit=job.batch), job.batch),
            summaries=await self._in_batches(lambda tx: summaries.purge(tx, settled, limit=job.batch), job.batch),
            prompts=await self._in_batches(
                lambda tx: generations.purge_prompts(tx, unneeded, limit=job.batch), job.batch
            ),
            events=await self._purge_events(job),
            results=await self._purge_results(old_jobs, job.batch),
            requests=await self._purge_requests(old_jobs, job.batch),
            streams=await self._purge_streams(job, old_jobs.running),
            conversations=await self._purge_conversations(job),
            contents=await self._remove_contents(job, old_jobs.running),
        )

    async def _stored_before_any_running(self, old: datetime) -> datetime:
        """The time before which no running workflow's prompt was last stored."""
        started = f"StartTime <= '{(old + STARTED_AFTER_STORING).isoformat()}'"
        query = f"ExecutionStatus = 'Running' AND {READ_PROMPTS} AND {started}"
        starts = [found.start_time async for found in self._client.list_workflows(query)]
        return min([old, *(start - STARTED_AFTER_STORING for start in starts)])

    async def _purge_events(self, job: PurgeInput) -> int:
        """Delete old events. Without a webhook no event waits for a delivery."""
        before = job.at - timedelta(days=self._settings.event_days)
        delete = partial(outbox.purge, before=before, waiting=Webhook.of(self._settings) is None, limit=job.batch)
        async with self._database.transaction() as tx:
            await outbox.mark_purged(tx, before)
        return await self._in_batches(delete, job.batch)

    async def _old_jobs(self, job: PurgeInput) -> Old:
        running = [found.id async for found in self._client.list_workflows(RUNNING_JOBS)]
        return Old(job.at - timedelta(days=self._settings.job_days), running)

    async def _purge_results(self, old: Old, batch: int) -> dict[str, int]:
        deletes = {table: partial(retention.purge_results, table=table, old=old, limit=batch) for table in RESULTS}
        return {table: await self._in_batches(delete, batch) for table, delete in deletes.items()}

    async def _purge_requests(self, old: Old, batch: int) -> int:
        total, last = 0, None
        while True:
            async with self._database.transaction() as tx:
                page = await retention.purge_requests(tx, old, after=last, limit=batch)
            total, last = total + page.deleted, page.last
            if last is None:
                return total

    async def _purge_streams(self, job: PurgeInput, running: Sequence[str]) -> int:
        times = {"ended_before": job.at - READ_AGAIN, "begun_before": job.at - STARTED_AFTER_STORING}
        return await self._in_batches(
            lambda tx: streams.purge(tx, **times, running=running, limit=job.batch), job.batch
        )

    async def _purge_conversations(self, job: PurgeInput) -> int:
        """Delete conversations without a turn for long, and end their workflows, which wait for a turn.

        Phone calls whose number keeps them for less are deleted before.
        """
        before = job.at - timedelta(days=self._settings.conversation_days)
        total = await self._in_batches(
            lambda tx: conversations.purge_phone_calls(tx, job.at, limit=job.batch), job.batch
        )
        ids = [""] * job.batch
        while len(ids) == job.batch:
            async with self._database.transaction() as tx:
                ids = await conversations.purge(tx, before, limit=job.batch)
            for job_id in ids:
                with suppress(RPCError):  # one that has ended
                    await self._client.get_workflow_handle(job_id).cancel()
            total += len(ids)
        return total

    async def _remove_contents(self, job: PurgeInput, running: Sequence[str]) -> dict[str, dict[str, int]]:
        """Remove what workspaces keep for a limited time only, and report to each what was removed.

        Raises:
            ParleyError, SQLAlchemyError: the first error of a workspace, after all others had their turn.
        """
        async with self._database.transaction() as tx:
            limits = await configuration.content_days(tx)
        if not limits:
            return {}
        # Listed once for all: a workspace that keeps content for longer needs no later time than the earliest start.
        unneeded = await self._stored_before_any_running(job.at - timedelta(days=min(limits.values())))
        removed, failures = dict[str, dict[str, int]](), list[ParleyError | SQLAlchemyError]()
        for workspace_id, days in limits.items():
            old = Old(job.at - timedelta(days=days), running)
            try:
                removed[workspace_id] = await self._remove_content(workspace_id, old, unneeded, job)
            except (ParleyError, SQLAlchemyError) as error:
                # It must not keep the content of the workspaces after it.
                activity.logger.exception("workspace %r: its old content is not removed", workspace_id)
                failures.append(error)
        if failures:
            raise failures[0]
        return {workspace_id: counts for workspace_id, counts in removed.items() if counts}

    async def _remove_content(self, workspace_id: str, old: Old, unneeded: datetime, job: PurgeInput) -> dict[str, int]:
        """Remove what is old in a workspace. `unneeded`: no running workflow needs a prompt that was stored before."""
        counts = dict[str, int]()
        for table in forgetting.BY_AGE:
            before = replace(old, before=min(old.before, unneeded)) if table == "prompts" else old
            remove = partial(forgetting.forget_old, workspace_id=workspace_id, table=table, old=before, limit=job.batch)
            counts[table] = await self._in_batches(remove, job.batch, bulk=True)
        counts["replies"] = await self._empty_replies(workspace_id, old, job.batch)
        removed = {table: count for table, count in counts.items() if count}
        if removed:
            async with self._database.transaction() as tx:
                await outbox.write_once(tx, _removed_event(workspace_id, old.before, removed))
            activity.logger.info("workspace %r: content of before %s is removed: %s", workspace_id, old.before, removed)
        return removed

    async def _empty_replies(self, workspace_id: str, old: Old, batch: int) -> int:
        total, page = 0, None
        while page is None or page.last is not None:
            async with self._database.transaction(bulk=True) as tx:
                page = await forgetting.forget_old_replies(tx, workspace_id, old, after=page, limit=batch)
            total += page.emptied
        return total

    async def _in_batches(
        self, delete: Callable[[AsyncSession], Awaitable[int]], batch: int, *, bulk: bool = False
    ) -> int:
        total, deleted = 0, batch
        while deleted == batch:
            async with self._database.transaction(bulk=bulk) as tx:
                deleted = await delete(tx)
            total += deleted
        return total


def _removed_event(workspace_id: str, before: datetime, counts: Mapping[str, int]) -> OutboxEvent:
    payload = {"before": before.isoformat(), "rows": dict(counts)}
    return OutboxEvent(workspace_id=workspace_id, kind=REMOVED, key=f"{REMOVED}:{before.isoformat()}", payload=payload)
