"""One generation for a request over HTTP, durable or inline: every endpoint that answers a chat is built on it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, TypeVar
from uuid import uuid4

from fastapi import Request

from gateway.auth import Caller
from gateway.errors import ClientDisconnected
from gateway.feeds import HEARTBEAT_SECONDS
from gateway.state import Gateway
from parley.client.client import Client
from parley.client.generate import check_names, generate
from parley.domain.errors import InvalidInput, ParleyError
from parley.domain.generate.contract import GenerateInput, GenerateResult, Mode, workflow_id
from parley.domain.streaming import Delta, TextDelta, ToolCallDelta

T = TypeVar("T")
OnDisconnect = Literal["finish", "cancel"]
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
    _client: Client
    _request: GenerateInput

    async def result(self, request: Request) -> GenerateResult:
        """Wait for the result.

        Raises:
            ClientDisconnected: the caller has left.
            ParleyError: as `client.generate` does.
        """
        running = self._start()
        try:
            return await unless_left(request, asyncio.shield(running))
        finally:
            await self._leave(running)

    async def items(self) -> AsyncGenerator[Item]:
        """The answer as it comes.

        Raises:
            ParleyError: as `client.generate` does.
        """
        running = self._start()
        try:
            while not (await asyncio.wait({running}, timeout=HEARTBEAT_SECONDS))[0]:
                yield None
            result = running.result()
            for delta in deltas_of(result):
                yield delta
            yield result
        finally:
            await self._leave(running)

    def _start(self) -> asyncio.Future[GenerateResult]:
        if self.mode is Mode.INLINE:
            return asyncio.ensure_future(self._gateway.inline.run(self._request, self.key))
        return asyncio.ensure_future(generate(self._gateway.backend, self._request, self.key))

    async def _leave(self, running: asyncio.Future[GenerateResult]) -> None:
        """Stop waiting. By default an answer is completed and stored, also where the caller left at once."""
        if running.done():
            return
        self._gateway.keep(running)
        if self.on_disconnect == "cancel":
            await self._cancel()

    async def _cancel(self) -> None:
        if self.mode is Mode.INLINE:
            self._gateway.inline.cancel(self._client.workspace_id, self.key)
            return
        try:
            await self._client.generation(self.id).cancel()
        except ParleyError:  # it has just ended
            return


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
    cancels = _one_of(headers, ON_DISCONNECT, ["finish", "cancel"]) == "cancel" if ON_DISCONNECT in headers else False
    check_names(gateway.backend.settings, asked)
    key = key or uuid4().hex
    return Answer(
        id=workflow_id(asked.workspace_id, key),
        mode=mode or caller.key.mode or gateway.policy.of_action(asked.action).mode,
        key=key,
        on_disconnect="cancel" if cancels else "finish",
        _gateway=gateway,
        _client=caller.client,
        _request=asked,
    )


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


async def unless_left(request: Request, work: asyncio.Future[T]) -> T:
    """The result of work, which is cancelled if the caller leaves first.

    Raises:
        ClientDisconnected: the caller has left.
    """
    leaving = asyncio.ensure_future(_left(request))
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


def deltas_of(result: GenerateResult) -> list[Delta]:
    """A whole answer as deltas."""
    text: list[Delta] = [TextDelta(text=result.content)] if result.content else []
    calls = [
        ToolCallDelta(index=index, id=call.id, name=call.name, arguments=call.arguments)
        for index, call in enumerate(result.tool_calls)
    ]
    return [*text, *calls]


def _one_of(headers: Mapping[str, str], name: str, known: list[str]) -> str:
    if headers[name] not in known:
        raise InvalidInput(f"must be {' or '.join(known)}", field=name)
    return headers[name]


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
