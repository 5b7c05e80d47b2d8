"""One generation for a request over HTTP, durable or inline: every endpoint that answers a chat is built on it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, TypeVar
from uuid import uuid4

from fastapi import Request

from gateway.auth import Caller
from gateway.errors import ClientDisconnected
from gateway.feeds import HEARTBEAT_SECONDS
from gateway.state import Gateway
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
    """A generation that was started.

    id: of its job. mode: how it runs. key: its idempotency key, also where the caller gave none.
    """

    id: str
    mode: Mode
    key: str
    on_disconnect: OnDisconnect
    _gateway: Gateway
    _caller: Caller
    _running: asyncio.Task[GenerateResult]

    async def result(self, request: Request) -> GenerateResult:
        """Wait for the result.

        Raises:
            ClientDisconnected: the caller has left.
            ParleyError: as `client.generate` does.
        """
        try:
            return await unless_left(request, asyncio.shield(self._running))
        finally:
            await self._end()

    async def items(self) -> AsyncGenerator[Item]:
        """The answer as it comes.

        Raises:
            ParleyError: as `client.generate` does.
        """
        try:
            while not (await asyncio.wait({self._running}, timeout=HEARTBEAT_SECONDS))[0]:
                yield None
            result = self._running.result()
            for delta in deltas_of(result):
                yield delta
            yield result
        finally:
            await self._end()

    async def _end(self) -> None:
        """Stop waiting. By default an answer is completed and stored, also where the caller left at once."""
        if self._running.done():
            return
        self._gateway.keep(self._running)
        if self.on_disconnect == "cancel":
            await self._cancel()

    async def _cancel(self) -> None:
        if self.mode is Mode.INLINE:
            self._gateway.inline.cancel(self._caller.client.workspace_id, self.key)
            return
        try:
            await self._caller.client.generation(self.id).cancel()
        except ParleyError:  # it has just ended
            return


def start(
    gateway: Gateway,
    caller: Caller,
    request: GenerateInput,
    *,
    key: str | None = None,
    mode: Mode | None = None,
    on_disconnect: OnDisconnect = "finish",
) -> Answer:
    """Start a generation, or join the one that runs or was answered under its key.

    Args:
        key: the idempotency key; default: a new one.
        mode: default: the mode of the caller's key, else of the action's policy.
        on_disconnect: what happens when the caller leaves before the end.

    Raises:
        InvalidInput, UnpricedModel: the request names a template or a model that does not exist.
    """
    check_names(gateway.backend.settings, request)
    key = key or uuid4().hex
    mode = mode or caller.key.mode or gateway.policy.of_action(request.action).mode
    run = gateway.inline.run(request, key) if mode is Mode.INLINE else generate(gateway.backend, request, key)
    running = asyncio.ensure_future(run)
    return Answer(workflow_id(request.workspace_id, key), mode, key, on_disconnect, gateway, caller, running)


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


def mode_of(request: Request) -> Mode | None:
    """The mode that a request's header chooses.

    Raises:
        InvalidInput: there is no such mode.
    """
    given = request.headers.get(MODE)
    return None if given is None else Mode(one_of(MODE, given, [*Mode]))


def on_disconnect_of(request: Request) -> OnDisconnect:
    """What a request's header says about a caller that leaves.

    Raises:
        InvalidInput: it is neither.
    """
    given = one_of(ON_DISCONNECT, request.headers.get(ON_DISCONNECT, "finish"), ["finish", "cancel"])
    return "cancel" if given == "cancel" else "finish"


def one_of(header: str, given: str, known: list[str]) -> str:
    """The value of a header that has few.

    Raises:
        InvalidInput: it is another one.
    """
    if given not in known:
        raise InvalidInput(f"must be {' or '.join(known)}", field=header)
    return given


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
