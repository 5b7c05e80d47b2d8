"""Answers of phone calls while PostgreSQL is down: from what this process has heard, by paid requests of the spool.

There is no workflow, no cache, no memory and no knowledge base. The turn and its cost are stored when PostgreSQL is
back.
"""

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime
from decimal import Decimal

from activities.paid_call import SpooledReply
from activities.parts import Parts
from activities.streams import ReplyStream
from gateway.inline import Tasks
from gateway.phone.calls import FREE, OpenCall
from parley.domain.conversation.context import NOTHING_KNOWN
from parley.domain.conversation.contract import turn_job_id
from parley.domain.errors import (
    BudgetExhausted,
    ProviderError,
    ProviderNotConfigured,
    ProviderUnavailable,
    UnpricedModel,
)
from parley.domain.generate.contract import ask_id, job_key
from parley.domain.phone.settings import instructions_of
from parley.domain.pricing import upper_bound
from parley.domain.requests import ChatReply, ChatRequest, Message
from parley.domain.routing import Route, RoutingRequest, allowed
from parley.domain.streaming import Delivered, Delta
from parley.storage.ledger import Charge
from parley.storage.spool import Spool

# The tier of a user whose account cannot be read.
TIER = "free"
# A spoken word has less than three tokens.
TOKENS_PER_WORD = 3
# What is booked waits for requests under way no longer than this: those that last longer are booked with the next.
REQUEST_SECONDS = 30.0


class CallSpent(BudgetExhausted):
    """What is left of the dollars of a phone call does not cover an answer."""


class Outage:
    """Answers turns without PostgreSQL, and books their costs when it is back."""

    def __init__(self, parts: Parts, spool: Spool) -> None:
        self._paid_calls, self._policy, self._models = parts.paid_calls, parts.policy, parts.candidates.models
        self._rates = parts.candidates.rates
        self._spool = spool
        # Requests whose readers have left are finished: what they cost is written.
        self._asking = Tasks()

    async def answer(
        self, call: OpenCall, turn_id: str, text: str, most_usd: Decimal | None = None
    ) -> AsyncGenerator[Delta | SpooledReply]:
        """The deltas of an answer, and last the whole of it with its cost. `most_usd`: of it; None: no limit.

        If it is closed before, the request is cancelled.

        Raises:
            CallSpent: each answer may cost more than `most_usd`.
            BudgetExhausted: the cap of the spool leaves no room.
            ProviderError: no provider answers, or the one that began broke off.
            Unreachable: the spool cannot be written.
        """
        failure: ProviderError | CallSpent | None = None
        request, spent = request_of(call, text), call.spooled.get(turn_id, FREE)
        for route in self._routes(call):
            bound = self._upper_bound(route, request)
            if most_usd is not None and spent + bound > most_usd:
                failure = failure or CallSpent(f"${most_usd} is left, and {route.model} may cost ${bound}")
                continue
            call.spooled[turn_id] = spent = spent + bound
            sink, is_begun = _Deltas(), False
            asking = self._asking.start(self._ask(call, turn_id, request, route, sink))
            try:
                async for delta in sink.until_done(asking):
                    is_begun = True
                    yield delta
                reply = asking.result()
                if reply.cost_usd is not None:
                    call.spooled[turn_id] = spent - bound + reply.cost_usd
                yield reply
                return
            except (ProviderNotConfigured, UnpricedModel):
                call.spooled[turn_id] = spent = spent - bound
                continue
            except ProviderError as error:
                if is_begun:
                    raise
                failure = error
            finally:
                sink.leave()
        raise failure or ProviderUnavailable("all providers", "none can be asked without the database")

    async def book(self) -> None:
        """Book what the spool has, after the requests that are under way.

        Raises:
            Unreachable: PostgreSQL is still down.
        """
        await self._asking.drain(REQUEST_SECONDS)
        await self._paid_calls.book_spooled(self._spool)

    def _routes(self, call: OpenCall) -> list[Route]:
        asked = RoutingRequest(model=call.settings.model, tier=TIER, seed=call.call_sid)
        return allowed(self._policy.routes(self._models), asked)

    def _upper_bound(self, route: Route, request: ChatRequest) -> Decimal:
        try:
            return upper_bound(route.provider, route.model or "", request, self._rates)[0]
        except UnpricedModel:  # it is not asked
            return FREE

    async def _ask(
        self, call: OpenCall, turn_id: str, request: ChatRequest, route: Route, sink: "_Deltas"
    ) -> SpooledReply:
        job_id = turn_job_id(call.workspace_id, call.call_sid, turn_id)
        key = job_key(job_id)
        charge = Charge(
            workspace_id=call.workspace_id,
            user_id=call.user_id,
            job_key=key,
            workflow_id=job_id,
            request_id=ask_id(key, 1),
            action=call.settings.action,
            energy=self._policy.of_action(call.settings.action).energy,
        )
        stream = await ReplyStream.open(sink, holds_text=False)
        return await self._paid_calls.make_without_ledger(
            self._spool, charge, request, route.provider, route.model or "", stream=stream
        )


class _Deltas:
    """A sink of deltas that one reader of this process takes. The request is cancelled when the reader leaves."""

    def __init__(self) -> None:
        self._deltas: asyncio.Queue[Delta] = asyncio.Queue()
        self._left = asyncio.Event()

    async def until_done(self, asking: "asyncio.Task[SpooledReply]") -> AsyncGenerator[Delta]:
        """The deltas until the request is done. Its error, if it has one, is not raised."""
        while not asking.done() or not self._deltas.empty():
            waiting = asyncio.ensure_future(self._deltas.get())
            await asyncio.wait({waiting, asking}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                yield waiting.result()
            else:
                waiting.cancel()

    def leave(self) -> None:
        self._left.set()

    async def open(self, scheduled_at: datetime | None = None) -> Delivered:  # noqa: ARG002
        return Delivered(attempt=1)

    async def record_claim(self, paid_request_id: str, attempt_id: str) -> bool:  # noqa: ARG002
        return True

    def send(self, delta: Delta) -> None:
        self._deltas.put_nowait(delta)

    async def complete(self, reply: ChatReply) -> None:
        """The spool has it."""

    async def cancelled(self) -> None:
        await self._left.wait()

    async def close(self) -> None:
        """Nothing is stored."""


def request_of(call: OpenCall, text: str) -> ChatRequest:
    """The request for a turn: what was said since the session began, and that the knowledge base says nothing."""
    said = [
        message
        for question, answer in call.exchanges.values()
        for message in (Message(role="user", content=question), Message(role="assistant", content=answer))
        if message.text
    ]
    asked = f"{NOTHING_KNOWN}\n\n{text}" if call.settings.knowledge else text
    return ChatRequest(
        messages=(
            Message(role="system", content=instructions_of(call.settings, call.language)),
            *said,
            Message(role="user", content=asked),
        ),
        max_tokens=call.settings.max_response_words * TOKENS_PER_WORD,
    )
