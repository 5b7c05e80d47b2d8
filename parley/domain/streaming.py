"""The parts of a reply that are sent before the reply is complete, and their way to the readers of a stream.

A stream has the id of its generation's workflow. Its offset is the number of deltas before it: the first delta has
offset 0. Each attempt of a generation opens a new attempt of its stream, numbered
from 1. Only the newest attempt may send.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Literal, Protocol

from pydantic import Field

from parley.domain.model import Model, Received, Text
from parley.domain.requests import ChatReply, ToolCall


class TextDelta(Model):
    """The next piece of a reply's text. It ends between two characters."""

    kind: Literal["text"] = "text"
    text: Received


class ToolCallDelta(Model):
    """The next piece of a tool call.

    index: the place of the call among the calls of the reply, from 0.
    id, name: of the call, in its first delta; empty in the others.
    arguments: the next piece of the JSON text of the arguments. It ends between two characters.
    """

    kind: Literal["tool_call"] = "tool_call"
    index: int = Field(ge=0)
    id: Received = ""
    name: Received = ""
    arguments: Received = ""


Delta = Annotated[TextDelta | ToolCallDelta, Field(discriminator="kind")]


def text_of(deltas: Sequence[Delta]) -> str:
    """The text that deltas make."""
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def remaining(text: str, tool_calls: Sequence[ToolCall], delivered: Sequence[Delta]) -> Iterator[Delta]:
    """What readers still need for an answer, after what was delivered of it. A tool call is delivered whole.

    Raises:
        ValueError: what was delivered is not the beginning of the answer.
    """
    seen = text_of(delivered)
    if not text.startswith(seen):
        raise ValueError("the text that was delivered is not the beginning of the answer")
    if len(seen) < len(text):
        yield TextDelta(text=text[len(seen) :])
    calls = {delta.index for delta in delivered if isinstance(delta, ToolCallDelta)}
    for index, call in enumerate(tool_calls):
        if index not in calls:
            yield ToolCallDelta(index=index, id=call.id, name=call.name, arguments=call.arguments)


class StreamTarget(Model):
    """Where the deltas of a generation go.

    address: of the receiver, for example `ws://127.0.0.1:9000`; None: readers in the process that pays.
    on_disconnect: what happens when the last reader leaves: the answer is finished, or its request is cancelled.
    """

    address: Text | None = None
    on_disconnect: Literal["finish", "cancel"] = "finish"


class Delivered(Model):
    """What is known of a stream when an attempt opens it.

    attempt: the number of the attempt that opens it, from 1.
    deltas: what earlier attempts sent, and readers may have seen.
    paid_request_id: the paid request of the attempt before; empty in the first.
    attempt_id: its attempt at the provider; empty if none was claimed.
    starts_at: the offset at which the reply to that paid request begins.
    reply: the whole reply to that paid request, if it was received before the attempt ended; with the text that it
        continues.
    """

    attempt: int = Field(ge=1)
    deltas: tuple[Delta, ...] = ()
    paid_request_id: str = ""
    attempt_id: str = ""
    starts_at: int = 0
    reply: ChatReply | None = None

    @property
    def text(self) -> str:
        """The text that readers may have seen."""
        return text_of(self.deltas)


class StreamBroken(Model):
    """The signal to a generation's workflow that an attempt of its stream ended without a word: its worker died.

    stream_id: of the stream, for a workflow that has several.
    """

    attempt: int = Field(ge=1)
    stream_id: Text = ""


class Restartable(Model):
    """A step that feeds a stream. `broken`: the attempt of the stream in whose place it was started; 0 for none."""

    broken: int = Field(default=0, ge=0)


class TokenSink(Protocol):
    """Takes the deltas of one attempt to the readers of a stream.

    Only `open` and `close` wait, and not for a reader: one who is slow, or left, delays no paid call.
    """

    async def open(self, scheduled_at: datetime | None = None) -> Delivered | None:
        """Begin a new attempt of the stream: from here on what older attempts send is dropped.

        scheduled_at: when the step of the attempt was scheduled; None: it has no step.
        None: another process makes the answer in its other mode, and the readers have that stream.

        Raises:
            StreamSuperseded: a step that was scheduled later has opened the stream.
        """
        ...

    async def record_claim(self, paid_request_id: str, attempt_id: str) -> bool:
        """Record what this attempt pays, before the provider is called. Returns whether it is the newest attempt."""
        ...

    def send(self, delta: Delta) -> None:
        """Send the next delta."""
        ...

    async def complete(self, reply: ChatReply) -> None:
        """Record the whole reply, before it is settled: if this process ends now, the next attempt settles it."""
        ...

    async def cancelled(self) -> None:
        """Return when the readers have left and the request is to be cancelled; wait for ever otherwise."""
        ...

    async def close(self) -> None:
        """End the attempt. Its deltas are stored, and sent as far as the receiver takes them within its timeout."""
        ...
