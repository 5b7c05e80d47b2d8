"""Faults that show in the completion itself."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from simulator.jobs import asks_for_groups
from simulator.schemas import ID_NAME, items_field
from simulator.wire import Prompt

INVENTED = "invented-by-the-simulator"
Items = list[dict[str, Any]]


def chat_traits(prompt: Prompt) -> frozenset[str]:
    """What faults this request can show."""
    traits = {"chat"}
    if prompt.stream:
        traits.add("stream")
    if prompt.schema and items_field(prompt.schema):
        traits.add("items")
    if prompt.schema and asks_for_groups(prompt.schema):
        traits.add("groups")
    return frozenset(traits)


def damaged(text: str, damage: str, prompt: Prompt) -> tuple[str, str | None]:
    """The text with the fault in it, and how it finished."""
    if damage == "malformed":
        return _broken(text), "stop"
    if damage == "truncated":
        return text[: len(text) // 2], "length"
    if damage == "no_finish":
        return text[: len(text) * 2 // 3], None
    if damage in WRONG_ITEMS and prompt.schema:
        return _with_wrong_items(text, WRONG_ITEMS[damage], items_field(prompt.schema) or ""), "stop"
    return text, "stop"


def _broken(text: str) -> str:
    """Not JSON, whatever it was: an object cut short never is."""
    return text[: len(text) * 2 // 3] if text.startswith("{") else '{"reply": "' + text


def _with_wrong_items(text: str, wrong: Callable[[Items], Items], field: str) -> str:
    reply = json.loads(text)
    reply[field] = wrong(reply[field])
    return json.dumps(reply, ensure_ascii=False)


def _one_group(groups: Items) -> Items:
    """All members in the first group, as of a model that finds that everything is somehow alike."""
    members = [member for group in groups for member in group["members"]]
    return [groups[0] | {"members": members}] if groups else []


def _invented(items: Items) -> dict[str, Any]:
    """A copy of the last item under an id that nobody sent; what it lists is invented too."""
    item = {name: [INVENTED] if _is_texts(value) else value for name, value in (items[-1] if items else {}).items()}
    name = next((name for name in item if ID_NAME.search(name)), None)
    name = name or next((name for name, value in item.items() if isinstance(value, str)), "id")
    known = [other.get(name) for other in items]
    numbers = [value for value in known if isinstance(value, int)]
    item[name] = max(numbers) + 1000 if numbers else INVENTED
    return item


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, str) for part in value)


WRONG_ITEMS: Mapping[str, Callable[[Items], Items]] = {
    "missing_items": lambda items: items[:-1],
    "invented_items": lambda items: [*items, _invented(items)],
    "duplicated_items": lambda items: [*items, *items[:1]],
    "one_group": _one_group,
}
