"""The stream of one attempt at an answer: what its readers have already, and what they still get.

Everything that is sent stays true. So the text of a reply is sent as it comes, and its tool calls when the reply is
complete, because half a call cannot be continued. A reply that must follow a response schema is sent after it was
checked, because it may be requested again. docs/streaming.md explains it.
"""

import asyncio
from collections.abc import Awaitable
from datetime import datetime
from typing import Self, TypeVar
from uuid import UUID

from activities.logs import step_logger
from parley.domain.errors import StreamSuperseded, TruncatedReply, Unreachable
from parley.domain.requests import ChatReply, Finish, Reply, Usage
from parley.domain.streaming import Delivered, Delta, TextDelta, TokenSink, remaining, text_of

T = TypeVar("T")

log = step_logger(__name__)


class ReplyStream:
    """The stream of one attempt. The paid call is made and settled also if its sink fails."""

    def __init__(self, sink: TokenSink, delivered: Delivered, *, holds_text: bool) -> None:
        self._sink, self._holds_text = sink, holds_text
        self._deltas = list(delivered.deltas)
        self._received: list[str] = []
        self._newer_pays = asyncio.Event()
        self.attempt, self.reply = delivered.attempt, delivered.reply
        """Its number, and the reply that an earlier attempt received."""
        self.before = delivered.text
        """The text that earlier attempts sent, which this one continues."""
        self.supersedes = UUID(delivered.attempt_id) if delivered.attempt_id else None
        """The attempt at the provider that was made for the stream before, and its paid request."""
        self.paid_request_id = delivered.paid_request_id

    @classmethod
    async def open(cls, sink: TokenSink, *, holds_text: bool, scheduled_at: datetime | None = None) -> Self | None:
        """Begin an attempt of a stream; None if its sink fails or takes none: the answer is made without it.

        Args:
            holds_text: send no text before `send_rest`.
            scheduled_at: when the step of the attempt was scheduled; None: it has no step.

        Raises:
            StreamSuperseded: a step that was scheduled later makes the answer.
            Unreachable: the database does not answer.
        """
        try:
            delivered = await sink.open(scheduled_at)
            return cls(sink, delivered, holds_text=holds_text) if delivered else None
        except (StreamSuperseded, Unreachable):
            raise
        except Exception as error:  # noqa: BLE001
            log.warning("the stream was not opened: %s", error or type(error).__name__)
            return None

    @property
    def is_first(self) -> bool:
        """Whether no attempt came before it."""
        return self.attempt == 1

    async def claimed(self, paid_request_id: str, attempt_id: str) -> bool:
        """Record what this attempt pays. Returns False if a newer attempt has begun, which does not know of it."""
        return await self._tolerant(self._sink.record_claim(paid_request_id, attempt_id)) is not False

    def add(self, delta: Delta) -> bool:
        """Take a delta of the reply. Returns whether it was sent."""
        if not isinstance(delta, TextDelta):
            return False
        self._received.append(delta.text)
        if self._holds_text:
            return False
        self._send(delta)
        return True

    async def complete(self, reply: ChatReply) -> ChatReply:
        """Record the whole reply, before it is settled. Returns it with the text that it continues."""
        if self.before:
            reply = reply.model_copy(update={"text": self.before + reply.text, "continues": True})
        await self._tolerant(self._sink.complete(reply))
        return reply

    async def cancelled(self) -> None:
        """Return when the readers have left and the request is to be cancelled; wait for ever otherwise."""
        try:
            await self._sink.cancelled()
        except Exception as error:  # noqa: BLE001 - the reply is paid for
            log.warning("the stream's sink failed: %s", error or type(error).__name__)
            await asyncio.Event().wait()

    def supersede(self) -> None:
        """A newer attempt is paid in this one's place: its reply reaches no reader."""
        self._newer_pays.set()

    async def superseded(self) -> None:
        """Return when a newer attempt is paid in this one's place; wait for ever otherwise."""
        await self._newer_pays.wait()

    def received(self, model: str, finish: Finish, usage: Usage) -> ChatReply:
        """What was received, as a whole reply."""
        return ChatReply(text="".join(self._received), finish=finish, usage=usage, model=model)

    def agrees_with(self, reply: Reply) -> bool:
        """Whether a reply begins with what was sent."""
        return isinstance(reply, ChatReply) and reply.text.startswith(text_of(self._deltas))

    def check(self, reply: Reply, provider: str) -> None:
        """Check that a reply begins with what was sent. Another one may have been settled first, after an outage.

        Raises:
            TruncatedReply: it does not. The next attempt continues what was sent.
        """
        if not self.agrees_with(reply):
            raise TruncatedReply(provider, "another reply than the one that was streamed was settled first")

    def send_rest(self, reply: ChatReply) -> None:
        """Send what readers still need for the answer."""
        for delta in remaining(reply.text, reply.tool_calls, self._deltas):
            self._send(delta)

    async def close(self) -> None:
        await self._tolerant(self._sink.close())

    def _send(self, delta: Delta) -> None:
        self._deltas.append(delta)
        try:
            self._sink.send(delta)
        except Exception as error:  # noqa: BLE001 - the reply is paid for, with or without readers
            log.warning("a delta was not sent: %s", error or type(error).__name__)

    async def _tolerant(self, step: Awaitable[T]) -> T | None:
        try:
            return await step
        except Exception as error:  # noqa: BLE001
            log.warning("the stream's sink failed: %s", error or type(error).__name__)
            return None
