"""Tools of a phone call's agent: what the model may ask for in a turn, beside its words."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from parley.domain.phone.settings import TONES, AgentTool, KeyAction, NumberSettings
from parley.domain.requests import Tool

LONGEST_REASON = 300
ARGUMENTS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
REASON = {"reason": {"type": "string", "description": "Why, in a few words."}}


class UnknownToolCall(ValueError):
    """A tool that the number does not have, or arguments that it does not take. It quotes nothing of them."""


class AskedAction(NamedTuple):
    """What the model asks for. `why`: its reason, for the person who takes over; empty where it gives none."""

    action: KeyAction
    why: str = ""


def tools_of(settings: NumberSettings) -> tuple[Tool, ...]:
    """The tools that the agent of a number has."""
    return tuple(_tool(name, settings) for name in settings.tools)


def read_call(settings: NumberSettings, name: str, arguments: str) -> AskedAction:
    """What a tool call of the model asks for.

    Args:
        settings: of the number, which decides what may be asked for.
        name: of the tool.
        arguments: a JSON object, as the model wrote it.

    Raises:
        UnknownToolCall: the number does not have the tool, or the arguments are not valid.
    """
    if name not in settings.tools:
        raise UnknownToolCall("the number does not have the tool")
    try:
        given = ARGUMENTS.validate_json(arguments or "{}")
        action = _action(name, given)
    except ValidationError:
        raise UnknownToolCall(f"{name}: the arguments are not valid") from None
    if action.language is not None and action.language not in settings.codes:
        raise UnknownToolCall(f"{name}: the number does not have the language")
    return AskedAction(action, str(given.get("reason") or "")[:LONGEST_REASON])


def _action(name: AgentTool, given: Mapping[str, Any]) -> KeyAction:
    match name:
        case "transfer_to_person":
            return KeyAction(kind="transfer")
        case "end_call":
            return KeyAction(kind="end")
        case "send_digits":
            return KeyAction(kind="send_digits", digits=given.get("digits"))
        case "change_language":
            return KeyAction(kind="language", language=given.get("code"))


def _tool(name: AgentTool, settings: NumberSettings) -> Tool:
    match name:
        case "transfer_to_person":
            return _described(name, "Connect the caller with a person, if the caller wants one or needs one.", REASON)
        case "end_call":
            return _described(name, "Hang up, after the caller has said good bye. Say good bye first.", REASON)
        case "send_digits":
            digits = {"type": "string", "pattern": TONES, "description": "0-9, *, #; w waits half a second, W one."}
            return _described(name, "Press keys on the line, for the menu of another system.", {"digits": digits})
        case "change_language":
            code = {"type": "string", "enum": sorted(settings.codes)}
            return _described(name, "Speak and understand another language from here on.", {"code": code})


def _described(name: str, description: str, properties: Mapping[str, Any]) -> Tool:
    schema = {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
    return Tool(name=name, description=description, parameters=schema)
