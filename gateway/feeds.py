"""What happens to a job, for any number of readers: one poll of the job serves all readers of this process.

A reader keeps only its place: how many of the job's labels it has, and the version of the last progress that it got. So
a slow reader holds no queue, and gets the newest progress when it reads on. The place is in the id of each event, which
any gateway process can continue from: the labels of a job have an order that never changes, and progress is a state.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from parley.client.backend import Backend
from parley.client.client import Client, handle_of
from parley.client.listing import DescribedJob, describe_job
from parley.domain.auto_analyze.contract import WORKFLOW as AUTO_ANALYZE
from parley.domain.errors import InvalidInput, Unreachable
from parley.domain.generate.contract import WORKFLOW as GENERATE
from parley.storage import auto_analyze, usage

POLL_SECONDS = 0.5
QUERY_SECONDS = 5.0
# Proxies end a connection on which nothing is sent for a minute.
HEARTBEAT_SECONDS = 15.0
EVENT_ID = re.compile(r"(\d{1,16})-(\d{1,9})-(\w{1,8})")


@dataclass(frozen=True)
class Event:
    """Something that a reader is sent. `id` grows from event to event."""

    id: str
    kind: str
    data: dict[str, Any]


@dataclass
class _State:
    """A job as the last poll found it. `version`: the time of the last change, in milliseconds."""

    version: int = 0
    key: str = ""
    shown: dict[str, Any] = field(default_factory=dict)
    labels: list[dict[str, str]] = field(default_factory=list)
    has_ended: bool = False
    problem: Exception | None = None


class JobFeed:
    """The events of one job. It polls while it has readers."""

    def __init__(self, backend: Backend, workspace_id: str, job_id: str) -> None:
        self._backend, self._workspace_id, self._job_id = backend, workspace_id, job_id
        self._client: Client = backend.client(workspace_id)
        self._state, self._changed = _State(), asyncio.Event()
        self._polling: asyncio.Task[None] | None = None
        self.readers = 0

    async def follow(self, last_event_id: str, draining: asyncio.Event) -> AsyncGenerator[Event | None]:
        """The events after an id, until the job or the process ends. None: nothing happened for some seconds.

        Raises:
            NotFound: the workspace has no such job.
        """
        place = _Place.after(last_event_id)
        self.readers += 1
        if self._polling is None or self._polling.done():
            self._state.problem = None
            self._polling = asyncio.create_task(self._poll())
        try:
            while not draining.is_set():
                changed = self._changed
                for event in place.events(self._state):
                    yield event
                if self._state.problem is not None:
                    raise self._state.problem
                if place.has_all(self._state):
                    return
                if changed is self._changed and not await _is_set(changed, draining):
                    yield None
        finally:
            self.readers -= 1
            if not self.readers and self._polling is not None:
                self._polling.cancel()
                self._polling = None

    async def _poll(self) -> None:
        while not self._state.has_ended:
            try:
                await self._read()
            except Unreachable:  # the readers wait until the servers answer again
                pass
            except Exception as problem:  # noqa: BLE001 - each reader raises it
                self._state.problem = problem
                self._wake()
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _read(self) -> None:
        """Read the job once, and wake the readers if it changed."""
        state = self._state
        job = await describe_job(self._backend, self._workspace_id, self._job_id)
        if job.job_key != state.key:
            state.key, state.labels = job.job_key, []
        has_ended = job.status != "running"
        labels = await self._labels(has_ended) if job.kind == AUTO_ANALYZE else []
        shown = {**await self._shown(job), "cost_usd": await self._cost()}
        if labels or shown != state.shown or has_ended:
            state.labels.extend(labels)
            state.shown, state.has_ended = shown, has_ended
            state.version = max(state.version + 1, time.time_ns() // 1_000_000)
            self._wake()

    async def _shown(self, job: DescribedJob) -> dict[str, Any]:
        if job.kind == GENERATE:
            return {"status": await self._client.generation(self._job_id).status()}
        handle = handle_of(self._backend, self._workspace_id, job.kind, job.id, job.job_key)
        if job.status != "running":
            report = await handle.report()
            return {"status": report.status, "reason": report.reason}
        with suppress(Unreachable, TimeoutError):  # its worker is away, or starts: the status is known nevertheless
            async with asyncio.timeout(QUERY_SECONDS):
                progress = await handle.progress()
            return {"status": job.status, "progress": progress.model_dump(mode="json")}
        return {**self._state.shown, "status": job.status}

    async def _labels(self, has_ended: bool) -> list[dict[str, str]]:
        after = len(self._state.labels)
        async with self._backend.database.transaction() as tx:
            found = await auto_analyze.labels_found(
                tx, self._workspace_id, self._state.key, after=after, has_ended=has_ended
            )
        return [{"kind": kind.value, "label": label} for kind, label in found]

    async def _cost(self) -> str:
        """What the job has cost so far in USD, with the upper bounds of uncertain costs."""
        async with self._backend.database.transaction() as tx:
            spent = await usage.costs(tx, self._workspace_id, job_key=self._state.key)
        return str(spent.confirmed_usd + spent.uncertain_usd)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass
class _Place:
    """A reader's place in a feed: the version of the last progress, and how many labels it has, of the job `key`."""

    version: int = 0
    labels: int = 0
    key: str = ""

    @classmethod
    def after(cls, event_id: str) -> "_Place":
        found = EVENT_ID.fullmatch(event_id)
        if event_id and not found:
            raise InvalidInput("is not the id of an event of this job", where="Last-Event-ID")
        return cls(0, int(found[2]), found[3]) if found else cls()

    def events(self, state: _State) -> list[Event]:
        """What the reader does not have yet; it has it afterwards."""
        if not state.version or state.version == self.version:
            return []
        key = state.key.rpartition(":")[2][:8].replace("-", "_")
        if self.key != key:  # another job under the same id
            self.key, self.labels = key, 0
        made: list[Event] = []
        if new := state.labels[self.labels :]:
            self.labels = len(state.labels)
            made.append(self._event(state, "labels", {"labels": new}))
        made.append(self._event(state, "progress", state.shown))
        if state.has_ended:
            made.append(self._event(state, "end", state.shown))
        self.version = state.version
        return made

    def has_all(self, state: _State) -> bool:
        return state.has_ended and self.version == state.version

    def _event(self, state: _State, kind: str, data: dict[str, Any]) -> Event:
        return Event(f"{state.version}-{self.labels}-{self.key}", kind, data)


class Feeds:
    """The feeds of a gateway process, one for each job that is read."""

    def __init__(self, backend: Backend, draining: asyncio.Event) -> None:
        self._backend, self._draining = backend, draining
        self._feeds: dict[tuple[str, str], JobFeed] = {}

    async def follow(self, workspace_id: str, job_id: str, last_event_id: str) -> AsyncGenerator[Event | None]:
        """The events of a job after an id. `JobFeed.follow` documents it."""
        where = (workspace_id, job_id)
        feed = self._feeds.get(where)
        if feed is None:
            feed = self._feeds[where] = JobFeed(self._backend, *where)
        try:
            # Closed here, the feed does not count the reader who left between two events any more.
            async with aclosing(feed.follow(last_event_id, self._draining)) as events:
                async for event in events:
                    yield event
        finally:
            if not feed.readers:
                self._feeds.pop(where, None)


async def _is_set(changed: asyncio.Event, draining: asyncio.Event) -> bool:
    """Wait for either of them; returns False where neither was set for some seconds."""
    waits = [asyncio.ensure_future(one.wait()) for one in (changed, draining)]
    try:
        done, _ = await asyncio.wait(waits, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
