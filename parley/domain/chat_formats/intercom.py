"""Intercom: conversations as its API and its export give them, with `source` and `conversation_parts`.

https://developers.intercom.com/docs/references/rest-api/api.intercom.io/conversations/conversation
"""

from collections.abc import Iterator, Mapping
from typing import Any

from parley.domain.chat_formats.drafts import ChatRole, Draft, Terms
from parley.domain.chat_formats.html_text import plain_text
from parley.domain.chat_formats.part import Part

LISTS = frozenset(("conversations", "data"))
USERS = frozenset(("user", "lead", "contact", "visitor"))
SOLVED = frozenset(("assumed_resolution", "confirmed_resolution"))
UNSOLVED = frozenset(("abandoned", "negative_feedback"))
HANDED_OVER = frozenset(("routed_to_team", "escalated", "procedure_handoff"))
# How an opening message is sent without a person who writes it, though its author is one.
AUTOMATED = frozenset(("automated", "operator_initiated", "campaigns_initiated"))


def recognises(record: Mapping[str, Any]) -> bool:
    """Whether an object is a conversation of Intercom."""
    return "conversation_parts" in record or (record.get("type") == "conversation" and "source" in record)


def read(record: Part, terms: Terms) -> Iterator[Draft]:
    """A conversation. Notes, which users do not see, redacted parts, and those without text are left out.

    Raises:
        InvalidInput: it has its opening message only, as the API's lists and searches give it.
    """
    del terms
    source, agent = record.inner("source"), record.inner("ai_agent")
    draft = Draft(session_id=record.needed_text("id"), user_id=_user(record))
    if not record.has("conversation_parts"):
        raise record.problem("conversation_parts", "is missing: retrieve each conversation by its id")
    if not source.flag("redacted"):
        draft.say(_opened_by(source), plain_text(source.text("body")), record.when("created_at"))
    for part in _parts(record):
        if not part.text("part_type").startswith("note") and not part.flag("redacted"):
            draft.say(_role(part.inner("author")), plain_text(part.text("body")), part.when("created_at"))
    resolution = agent.text("resolution_state")
    draft.handed_over = resolution in HANDED_OVER
    draft.solved = True if resolution in SOLVED else False if resolution in UNSOLVED else None
    yield draft


def _parts(record: Part) -> Iterator[Part]:
    """The parts: a list, or within an object that names its type, as the API has them."""
    holder = record if record.is_list("conversation_parts") else record.inner("conversation_parts")
    yield from holder.list_of("conversation_parts")


def _role(author: Part) -> ChatRole:
    if author.flag("from_ai_agent") or author.text("type") == "bot":
        return "bot"
    return "user" if author.text("type") in USERS else "agent"


def _opened_by(source: Part) -> ChatRole:
    role = _role(source.inner("author"))
    return "bot" if role == "agent" and source.text("delivered_as") in AUTOMATED else role


def _user(record: Part) -> str:
    for contact in record.inner("contacts").list_of("contacts"):
        return contact.text("external_id", "id")
    author = record.inner("source").inner("author")
    return author.text("id") if _role(author) == "user" else ""
