"""What a worker and a receiver of streams say to each other: JSON, several frames in one message.

Each attempt of a stream has a channel on the connection, by a number that the worker chooses and uses once.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from parley.domain.model import Model
from parley.domain.streaming import Delta

# An answer of 128,000 tokens, each as a delta, is less.
MOST_BYTES = 16 * 1024 * 1024
MOST_DELTAS = 500
# The purpose of the token in the header `Authorization` of a worker's connection.
TOKEN_PURPOSE = "streams"  # noqa: S105 - not a token

Channel = Annotated[int, Field(ge=0)]
Offset = Annotated[int, Field(ge=0)]


class Open(Model):
    """Begin an attempt of a stream, or continue it after the connection was lost.

    stored: the number of deltas that the worker has. The receiver answers with its `Position`, or with `Refused`.
    """

    kind: Literal["open"] = "open"
    channel: Channel
    workspace_id: str
    stream_id: str
    attempt: int = Field(ge=1)
    stored: Offset
    on_disconnect: Literal["finish", "cancel"]


class Deltas(Model):
    """The deltas of a stream from an offset on."""

    kind: Literal["deltas"] = "deltas"
    channel: Channel
    offset: Offset
    deltas: tuple[Delta, ...]


class End(Model):
    """The attempt has ended at an offset. The receiver answers with `Ended`, or with its `Position` before that."""

    kind: Literal["end"] = "end"
    channel: Channel
    offset: Offset


class Position(Model):
    """The offset that the receiver wants next: its answer to `Open`, and to what comes after a gap.

    before: how many deltas it had when the attempt first opened; None if it does not know. deltas: those that the
    worker does not have, from the offset `stored` of `Open` on.
    """

    kind: Literal["position"] = "position"
    channel: Channel
    offset: Offset
    before: Offset | None = None
    deltas: tuple[Delta, ...] = ()


class Refused(Model):
    """The attempt is not the newest one: the receiver takes nothing from it."""

    kind: Literal["refused"] = "refused"
    channel: Channel


class Cancel(Model):
    """The last reader has left a stream whose `on_disconnect` is `cancel`."""

    kind: Literal["cancel"] = "cancel"
    channel: Channel


class Ended(Model):
    """The receiver has all deltas of the attempt."""

    kind: Literal["ended"] = "ended"
    channel: Channel


FromWorker = Annotated[Open | Deltas | End, Field(discriminator="kind")]
FromReceiver = Annotated[Position | Refused | Cancel | Ended, Field(discriminator="kind")]
FROM_WORKER: TypeAdapter[list[FromWorker]] = TypeAdapter(list[FromWorker])
FROM_RECEIVER: TypeAdapter[list[FromReceiver]] = TypeAdapter(list[FromReceiver])
