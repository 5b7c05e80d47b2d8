"""The parts of a reply that a provider sends before the reply is complete."""

from typing import Annotated, Literal

from pydantic import Field

from parley.domain.model import Model, Received


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
