"""One generation for a request over HTTP, durable or inline: every endpoint that answers a chat is built on it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

from fastapi import Request, WebSocket

from gateway.auth import Caller
from gateway.errors import ClientDisconnected
from gateway.feeds import HEARTBEAT_SECONDS
from gateway.state import Gateway
from parley.client.conversation import ConversationHandle
from parley.client.generate import check_names, generate, generate_stream
from parley.client.streaming import GenerateStream, OnDisconnect
from parley.domain.errors import InvalidInput
from parley.domain.generate.contract import GenerateInput, GenerateResult, Mode, workflow_id
from parley.domain.streaming import Delta

T = TypeVar("T")
MODE, ON_DISCONNECT = "x-parley-mode", "x-parley-on-disconnect"

Item = Delta | GenerateResult | None
"""What a reader of an answer gets: deltas, None where nothing came for a while, and last the result."""


@dataclass(frozen=True)
class Answer:
    """A generation, which begins when its result or its items are awaited.

    id: of its job. mode: how it runs. key: its idempotency key, also where the caller gave none.
    on_disconnect: what happens when the caller leaves before the end.
    """

    id: str
    mode: Mode
    key: str
    on_disconnect: OnDisconnect
    _gateway: Gateway
    _request: GenerateInput
    _is_shared: bool

    async def result(self, request: Request) -> GenerateResult:
        """Wait for the result.

        Raises:
            ClientDisconnected: the caller has left.
            ParleyError: as `client.generate` does.
        """
        if self.on_disconnect == "cancel":
            async with self.stream() as stream:
                return await unless_left(request, asyncio.ensure_future(stream.result()))
        return await finished(self._gateway, request, self._start())

    async def items(self) -> AsyncGenerator[Item]:
        """The answer as it comes.

        Raises:
            ParleyError: as `client.generate` does.
        """
        async with self.stream() as stream, aclosing(items_of(stream)) as items:
            async for item in items:
                yield item

    def stream(self, offset: int | None = 0) -> GenerateStream:
        """The answer's stream. `offset`: the number of deltas that its reader has; None: all of them."""
        given = {"on_disconnect": self.on_disconnect, "offset": offset}
        if self.mode is Mode.INLINE:
            return self._gateway.inline.stream(self._request, self.key, **given)
        return generate_stream(self._gateway.backend, self._request, self.key, is_shared=self._is_shared, **given)

    def _start(self) -> asyncio.Future[GenerateResult]:
        if self.mode is Mode.INLINE:
            return asyncio.ensure_future(self._gateway.inline.run(self._request, self.key))
        return asyncio.ensure_future(generate(self._gateway.backend, self._request, self.key))


async def items_of(stream: GenerateStream) -> AsyncGenerator[Item]:
    """The deltas of a stream, None where nothing came for a while, and last its result."""
    deltas = aiter(stream)
    while True:
        waiting = asyncio.ensure_future(anext(deltas, None))
        try:
            while not (await asyncio.wait({waiting}, timeout=HEARTBEAT_SECONDS))[0]:
                yield None
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})
        delta = waiting.result()
        if delta is None:
            break
        yield delta
    yield await stream.result()


def answer_to(
    gateway: Gateway, caller: Caller, asked: GenerateInput, key: str | None, headers: Mapping[str, str]
) -> Answer:
    """The answer to a request, or that of the generation that runs or was answered under its key.

    Args:
        asked: what to answer.
        key: the idempotency key; None: a new one.
        headers: of the request. Its mode is that of its header, else of its key, else of the action's policy.

    Raises:
        InvalidInput: a header is not valid, or the request names a template that does not exist.
        UnpricedModel: no price is known for the model.
    """
    mode = Mode(_one_of(headers, MODE, [*Mode])) if MODE in headers else None
    check_names(gateway.backend.settings, asked)
    own = key or uuid4().hex
    return Answer(
        id=workflow_id(asked.workspace_id, own),
        mode=mode or caller.key.mode or gateway.policy.of_action(asked.action).mode,
        key=own,
        on_disconnect=on_disconnect_of(headers),
        _gateway=gateway,
        _request=asked,
        _is_shared=key is not None,
    )


def turn_stream(
    talk: ConversationHandle, text: str, headers: Mapping[str, str], *, offset: int | None = 0, **options: Any
) -> GenerateStream:
    """The stream of a turn of a conversation, which is always durable: its order is kept by a workflow.

    Raises:
        InvalidInput: a header or an option is not valid.
        UnpricedModel: no price is known for the model.
    """
    if MODE in headers:
        _one_of(headers, MODE, [Mode.DURABLE])
    return talk.stream(text, on_disconnect=on_disconnect_of(headers), offset=offset, **options)


def on_disconnect_of(headers: Mapping[str, str]) -> OnDisconnect:
    """What happens when the caller leaves before the end, as a request's header says.

    Raises:
        InvalidInput: the header is not valid.
    """
    if ON_DISCONNECT not in headers:
        return "finish"
    return "cancel" if _one_of(headers, ON_DISCONNECT, ["finish", "cancel"]) == "cancel" else "finish"


async def counted(gateway: Gateway, caller: Caller, frames: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """Frames, counted as one of the key's open streams. They begin after the count.

    Raises:
        TooManyRequests: the key has as many open streams as it may.
    """
    async with gateway.stream(caller), aclosing(frames):
        async for frame in frames:
            yield frame


async def first_of(request: Request, frames: AsyncGenerator[str]) -> str:
    """The first frame. It is awaited before the response begins: what is wrong until then is a status.

    Raises:
        ClientDisconnected: the caller has left.
        ParleyError: what the frames raise.
    """
    try:
        return await unless_left(request, asyncio.ensure_future(anext(frames)))
    except BaseException:
        await frames.aclose()
        raise


async def finished(gateway: Gateway, request: Request, running: asyncio.Future[T]) -> T:
    """The result of work that is completed and stored, also where the caller leaves at once.

    Raises:
        ClientDisconnected: the caller has left.
    """
    try:
        return await unless_left(request, asyncio.shield(running))
    finally:
        gateway.keep(running)


async def unless_left(connection: Request | WebSocket, work: asyncio.Future[T]) -> T:
    """The result of work, which is cancelled if the caller leaves first.

    What the caller sends meanwhile is read and means nothing: a server that does not read does not see the end of a
    connection, nor the answers to its pings.

    Raises:
        ClientDisconnected: the caller has left.
    """
    leaving = asyncio.ensure_future(_left(connection))
    try:
        await asyncio.wait({leaving, work}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ClientDisconnected("the caller closed the connection before the response")
    finally:
        leaving.cancel()
        work.cancel()
        await asyncio.wait({leaving, work})


async def resumed(frames: AsyncGenerator[str], first: str) -> AsyncGenerator[str]:
    """The frames, the first one included."""
    async with aclosing(frames):
        yield first
        async for frame in frames:
            yield frame


def _one_of(headers: Mapping[str, str], name: str, known: list[str]) -> str:
    if headers[name] not in known:
        raise InvalidInput(f"must be {' or '.join(known)}", field=name)
    return headers[name]


async def _left(connection: Request | WebSocket) -> None:
    while (await connection.receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
        pass
