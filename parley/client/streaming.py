"""An answer while it is made: the deltas of its stream, and its result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Literal, Self

from parley.domain.errors import JobFailed, ParleyError
from parley.domain.generate.contract import GenerateResult
from parley.domain.streaming import Delta, StreamTarget, remaining
from parley.storage.database import Database
from parley.streams.hub import StreamReceiver
from parley.streams.resuming import poll, resume

OnDisconnect = Literal["finish", "cancel"]
# The address of a stream whose deltas no worker can send: they are stored.
STORED_ONLY = ""

log = logging.getLogger(__name__)


class GenerateStream:
    """One answer while it is made. `client.generate_stream` makes it; the request is sent by `async with`.

    Iterate over it for the deltas, each once and in order: `TextDelta` and `ToolCallDelta`. `result` has the whole
    answer. An answer that is not made now, for example from the cache, comes as one delta.
    """

    def __init__(
        self,
        receiver: StreamReceiver,
        workspace_id: str,
        stream_id: str,
        run: Callable[[StreamTarget], Awaitable[GenerateResult]],
        *,
        on_disconnect: OnDisconnect = "finish",
        offset: int | None = 0,
        stored_in: Database | None = None,
        begin: Callable[[], Awaitable[object]] | None = None,
        is_held: bool = False,
    ) -> None:
        """Build it; `run` is called when it is entered.

        Args:
            receiver: of the deltas.
            workspace_id: the workspace of the generation.
            stream_id: the id of its workflow.
            run: runs the generation, or joins the one that runs, and returns its result.
            on_disconnect: whether the answer is finished when its readers leave, or its request is cancelled.
            offset: the number of deltas that the reader has already; None: it has all of them.
            stored_in: where another process may have stored deltas of the same stream. None: it has just one reader.
            begin: called when it is entered, before anything of the stream is read: it raises what refuses the reader.
            is_held: nothing is read before `accept`, for a key that may be that of a different request.
        """
        self._receiver, self._run, self._of = receiver, run, (workspace_id, stream_id)
        self._begin = begin
        self._accepted = asyncio.Event()
        if not is_held:
            self.accept()
        self._on_disconnect: OnDisconnect = on_disconnect
        self._stored_in = stored_in
        self.id = stream_id
        """The id of the generation's workflow."""
        self.offset = offset
        """The number of deltas before the next one; None when the reader has all. A reader may continue there."""
        self._deltas: AsyncGenerator[Delta] | None = None
        self._running: asyncio.Task[GenerateResult] | None = None
        self._polling: asyncio.Task[None] | None = None

    def accept(self) -> None:
        """The request is the one that the stream answers: it may be read."""
        self._accepted.set()

    async def __aenter__(self) -> Self:
        if self._begin is not None:
            await self._begin()
        address = await self._address()
        self._reader = self._receiver.hub.read(*self._of, offset=self.offset or 0)
        try:
            if self._stored_in is not None:
                await self._poll(self._stored_in, address)
            target = StreamTarget(address=address, on_disconnect=self._on_disconnect)
            self._running = asyncio.ensure_future(self._run(target))
        except BaseException:
            self._reader.close()
            raise
        self._running.add_done_callback(lambda _: self._reader.end())
        self._deltas = self._read(self._running)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the stream. The generation goes on, unless it was to be cancelled when its readers leave."""
        self._reader.close()
        deltas, running = self._begun()
        await deltas.aclose()
        await asyncio.sleep(0)  # a task that is cancelled before its first step begins nothing
        await _ended(running)
        if self._polling is not None:
            await _ended(self._polling)

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self._begun()[0]

    async def result(self) -> GenerateResult:
        """Wait for the whole answer, as `client.generate` returns it. The deltas need not be read before.

        Raises:
            IdempotencyConflict: the key was used for a different request.
            JobFailed: no provider answered; the message lists the attempts.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        return await asyncio.shield(self._begun()[1])

    @property
    def is_refused(self) -> bool:
        """Whether it has ended without an answer: what can be read then is a sentence that says so."""
        _, running = self._begun()
        return running.done() and not running.cancelled() and not running.exception() and not running.result().success

    def _begun(self) -> tuple[AsyncGenerator[Delta], asyncio.Task[GenerateResult]]:
        if self._deltas is None or self._running is None:
            raise RuntimeError("the stream has not begun: write `async with client.generate_stream(...) as stream`")
        return self._deltas, self._running

    async def _address(self) -> str | None:
        """Where workers send the deltas. Without a receiver they are stored, and read from there."""
        try:
            return await self._receiver.address()
        except (ParleyError, OSError) as error:
            log.warning("workers cannot send the answer while it is made: %s", error)
            return STORED_ONLY

    async def _poll(self, database: Database, address: str | None) -> None:
        """Read what is stored, and have the workers send what comes to this process too.

        A reader that continues waits for what is stored before its place. Another one does not wait for the database.
        """
        hub, address = self._receiver.hub, address or None
        if self.offset == 0 or not await resume(database, hub, *self._of, address=address):
            self._polling = asyncio.ensure_future(poll(database, hub, *self._of, address=address))

    async def _read(self, running: asyncio.Task[GenerateResult]) -> AsyncGenerator[Delta]:
        await self._until_accepted(running)
        if self.offset is not None:
            async for delta in self._reader:
                self.offset = self._reader.offset
                yield delta
        result = await asyncio.shield(running)
        delivered = self._reader.delivered
        # What a conversation says in place of an answer is never the end of one that broke.
        if self.offset is None or (not result.success and (result.content is None or delivered)):
            return
        self.offset = None
        try:
            rest = list(remaining(result.content or "", result.tool_calls, delivered))
        except ValueError as error:
            raise JobFailed("StreamBroken", f"{error}: the answer of this key is in the result") from None
        for delta in rest:
            yield delta

    async def _until_accepted(self, running: asyncio.Task[GenerateResult]) -> None:
        """Wait until the request is accepted, or has a result.

        Raises:
            IdempotencyConflict: its key was used for a different request.
        """
        if self._accepted.is_set():
            return
        accepted = asyncio.ensure_future(self._accepted.wait())
        try:
            await asyncio.wait({accepted, running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _ended(accepted)
        if running.done():
            await asyncio.shield(running)


async def _ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end. Its caller may not have asked for its result."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
