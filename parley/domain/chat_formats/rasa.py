"""Rasa: trackers with their events, or events one by one as an event broker and the SQL tracker store have them.

https://rasa.com/docs/reference/primitives/events
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from parley.domain.chat_formats.drafts import Draft, Terms
from parley.domain.chat_formats.part import Part

LISTS = frozenset(("trackers",))
BEGINS = frozenset(("session_started", "restart"))
# After a sender's id, so that no session has the id of another sender's: their ids may end in a number after a dash.
NUMBERED = re.compile(r"~\d+$")
HANDOVERS = ("human_handoff", "handoff", "handover", "live_agent")


def recognises(record: Mapping[str, Any]) -> bool:
    """Whether an object is a tracker or an event of Rasa."""
    return "sender_id" in record and any(name in record for name in ("events", "event", "type_name"))


def key(record: Part, file: str) -> str:
    """The sender of an event; empty for a tracker, which has all events of its sender."""
    del file
    return "" if record.is_list("events") else record.needed_text("sender_id")


def read(record: Part, terms: Terms) -> Iterator[Draft]:
    """The sessions of a tracker."""
    yield from assemble(record.needed_text("sender_id"), list(record.list_of("events")), terms)


def assemble(sender: str, events: Sequence[Part], terms: Terms) -> Iterator[Draft]:
    """The sessions of a sender: each begins with the event `session_started` or `restart`."""
    del terms
    first = f"{sender}~1" if NUMBERED.search(sender) else sender
    number, draft = 1, Draft(session_id=first, user_id=sender)
    for one in events:
        event = _event(one)
        kind = event.text("event")
        if kind in BEGINS and draft.messages:
            yield draft
            number += 1
            draft = Draft(session_id=f"{sender}~{number}", user_id=sender)
        _add(draft, kind, event)
    yield draft


def _event(one: Part) -> Part:
    """The event itself: a row of the tracker store has it as a text of JSON."""
    data = one.raw("data")
    if not one.has("type_name") or not isinstance(data, str):
        return one
    try:
        inner = json.loads(data)
    except (ValueError, RecursionError):
        raise one.problem("data", "is not JSON: export the rows of the table as they are") from None
    if not isinstance(inner, dict):
        raise one.problem("data", "must be an object")
    return one.same_place(cast("dict[str, Any]", inner))


def _add(draft: Draft, kind: str, event: Part) -> None:
    if kind == "user":
        draft.say("user", event.text("text"), event.when("timestamp"))
    elif kind == "bot":
        draft.say("bot", event.text("text") or _buttons(event), event.when("timestamp"))
    elif kind == "action" and any(name in event.text("name") for name in HANDOVERS):
        draft.handed_over = True


def _buttons(event: Part) -> str:
    """The titles of the buttons that a bot showed without a text."""
    data = event.raw("data")
    if not isinstance(data, dict):
        return ""
    return " | ".join(button.text("title") for button in event.inner("data").list_of("buttons"))
