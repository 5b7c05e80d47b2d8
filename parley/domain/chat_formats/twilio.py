"""Twilio Conversations: messages as the REST API lists them, or as an SDK names their fields.

https://www.twilio.com/docs/conversations/api/conversation-message-resource
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from parley.domain.chat_formats.drafts import ChatRole, Draft, Terms
from parley.domain.chat_formats.part import Part

LISTS = frozenset(("messages",))
BOTS = frozenset(("system", "bot", "assistant"))
# An address of a person outside: a telephone number, or one of a channel.
ADDRESS = re.compile(r"^(?:[a-z]+:)?\+?\d{5,}$|^(?:whatsapp|messenger|sms|gbm|line):", re.IGNORECASE)


def recognises(record: Mapping[str, Any]) -> bool:
    """Whether an object is a message of Twilio Conversations."""
    is_message = "author" in record and "body" in record
    return is_message and any(name in record for name in ("conversation_sid", "conversationSid", "index"))


def key(record: Part, file: str) -> str:
    """The conversation of a message; where messages do not name one, the file has one conversation."""
    return record.text("conversation_sid", "conversationSid") or PurePosixPath(file).with_suffix("").as_posix()


def assemble(conversation: str, messages: Sequence[Part], terms: Terms) -> Iterator[Draft]:
    """The messages of a conversation in the order of their index."""
    placed = sorted(messages, key=_index)
    user = _user([one.text("author") for one in placed], terms)
    draft = Draft(session_id=conversation, user_id=user)
    for message in placed:
        role = _role(message.text("author"), user, terms)
        draft.say(role, message.text("body"), message.when("date_created", "dateCreated"))
    yield draft


def _index(message: Part) -> int:
    given = message.raw("index")
    if given is None:
        return 0
    if isinstance(given, bool) or not str(given).isdecimal():
        raise message.problem("index", "must be a whole number")
    return int(given)


def _user(authors: Sequence[str], terms: Terms) -> str:
    """The author who is the user: one with an address, or else the first that is not the system."""
    people = [author for author in authors if _known(author, terms) in (None, "user")]
    named = (author for author in people if terms.roles.named(author) == "user" or ADDRESS.match(author))
    return next(named, people[0] if people else "")


def _known(author: str, terms: Terms) -> ChatRole | None:
    return terms.roles.named(author) or ("bot" if author.casefold() in BOTS else None)


def _role(author: str, user: str, terms: Terms) -> ChatRole:
    known = _known(author, terms)
    return known or terms.roles.of(author, is_user=author == user or bool(ADDRESS.match(author)))
