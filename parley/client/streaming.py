"""An answer while it is made: the deltas of its stream, and its result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Literal, Self

from parley.domain.errors import JobFailed, ParleyError
from parley.domain.generate.contract import GenerateInput, GenerateResult
from parley.domain.streaming import Delta, StreamTarget, remaining
from parley.streams.hub import StreamReceiver

OnDisconnect = Literal["finish", "cancel"]

log = logging.getLogger(__name__)


class GenerateStream:
    """One answer while it is made. `client.generate_stream` makes it; the request is sent by `async with`.

    Iterate over it for the deltas, each once and in order: `TextDelta` and `ToolCallDelta`. `result` has the whole
    answer. An answer that is not made now, for example from the cache, comes as one delta.
    """

    def __init__(
        self,
        receiver: StreamReceiver,
        request: GenerateInput,
        stream_id: str,
        run: Callable[[GenerateInput], Awaitable[GenerateResult]],
        on_disconnect: OnDisconnect,
    ) -> None:
        self._receiver, self._request, self._run = receiver, request, run
        self._on_disconnect: OnDisconnect = on_disconnect
        self.id = stream_id
        """The id of the generation's workflow."""
        self._deltas: AsyncGenerator[Delta] | None = None
        self._running: asyncio.Task[GenerateResult] | None = None

    async def __aenter__(self) -> Self:
        target = StreamTarget(address=await self._address(), on_disconnect=self._on_disconnect)
        request = self._request.model_copy(update={"stream": target})
        self._reader = self._receiver.hub.read(request.workspace_id, self.id)
        self._running = asyncio.ensure_future(self._run(request))
        self._running.add_done_callback(lambda _: self._reader.end())
        self._deltas = self._read(self._running)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the stream. The generation goes on, unless it was to be cancelled when its readers leave."""
        self._reader.close()
        deltas, running = self._begun()
        await deltas.aclose()
        running.cancel()
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # its caller may not have asked for the result

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

    def _begun(self) -> tuple[AsyncGenerator[Delta], asyncio.Task[GenerateResult]]:
        if self._deltas is None or self._running is None:
            raise RuntimeError("the stream has not begun: write `async with client.generate_stream(...) as stream`")
        return self._deltas, self._running

    async def _address(self) -> str | None:
        """Where workers send the deltas; without a receiver the answer comes when it is complete."""
        try:
            return await self._receiver.address()
        except (ParleyError, OSError) as error:
            log.warning("the answer is not streamed: %s", error)
            return None

    async def _read(self, running: asyncio.Task[GenerateResult]) -> AsyncGenerator[Delta]:
        delivered: list[Delta] = []
        async for delta in self._reader:
            delivered.append(delta)
            yield delta
        result = await asyncio.shield(running)
        if not result.success:
            return
        try:
            rest = list(remaining(result.content or "", result.tool_calls, delivered))
        except ValueError as error:
            raise JobFailed("StreamBroken", f"{error}: the answer of this key is in the result") from None
        for delta in rest:
            yield delta
