"""Faults that show in the completion itself."""

import json
from typing import Any

from simulator.schemas import ID_NAME, items_field
from simulator.wire import Prompt

INVENTED = "invented-by-the-simulator"


def chat_traits(prompt: Prompt) -> frozenset[str]:
    """What faults this request can show."""
    traits = {"chat"}
    if prompt.stream:
        traits.add("stream")
    if prompt.schema and items_field(prompt.schema):
        traits.add("items")
    return frozenset(traits)


def damaged(text: str, damage: str, prompt: Prompt) -> tuple[str, str | None]:
    """The text with the fault in it, and how it finished."""
    if damage == "malformed":
        return _broken(text), "stop"
    if damage == "truncated":
        return text[: len(text) // 2], "length"
    if damage == "no_finish":
        return text[: len(text) * 2 // 3], None
    if damage in ("missing_items", "invented_items") and prompt.schema:
        return _with_wrong_items(text, damage, items_field(prompt.schema) or ""), "stop"
    return text, "stop"


def _broken(text: str) -> str:
    """Not JSON, whatever it was: an object cut short never is."""
    return text[: len(text) * 2 // 3] if text.startswith("{") else '{"reply": "' + text


def _with_wrong_items(text: str, damage: str, field: str) -> str:
    reply = json.loads(text)
    items = reply[field]
    if damage == "missing_items":
        reply[field] = items[:-1]
    else:
        reply[field] = [*items, _invented(items)]
    return json.dumps(reply, ensure_ascii=False)


def _invented(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A copy of the last item under an id that nobody sent."""
    item = dict(items[-1]) if items else {}
    name = next((name for name in item if ID_NAME.search(name)), None)
    name = name or next((name for name, value in item.items() if isinstance(value, str)), "id")
    known = [other.get(name) for other in items]
    numbers = [value for value in known if isinstance(value, int)]
    item[name] = max(numbers) + 1000 if numbers else INVENTED
    return item
