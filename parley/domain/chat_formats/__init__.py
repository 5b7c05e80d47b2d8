"""Files of chat sessions as other products export them, read as they are: one module for each format.

A format of JSON has `recognises`, and `read` for objects that are whole sessions, or `key` and `assemble` for objects
that are parts of one. A format of text has a `Survey` of the whole file, and `read`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from parley.domain.chat_formats import dialogflow, intercom, rasa, slack, transcript, twilio, whatsapp, zendesk
from parley.domain.chat_formats.drafts import ChatRole, Draft, Roles, Terms
from parley.domain.chat_formats.part import Part

ChatFormat = Literal[
    "jsonl", "csv", "intercom", "zendesk", "twilio", "whatsapp", "slack", "dialogflow", "rasa", "transcript"
]
CHAT_FORMATS: tuple[ChatFormat, ...] = get_args(ChatFormat)
CHAT_ROLES: Mapping[str, ChatRole] = {role: role for role in get_args(ChatRole)}


def _is_whole(record: Part, file: str) -> str:
    del record, file
    return ""


def _has_no_session(record: Part, terms: Terms) -> Iterator[Draft]:
    del terms
    raise record.problem("", "has parts of sessions only")


def _has_no_parts(key: str, parts: Sequence[Part], terms: Terms) -> Iterator[Draft]:
    del terms
    raise parts[0].problem(key, "has whole sessions only")


@dataclass(frozen=True)
class JsonFormat:
    """How the objects of a format become sessions.

    Attributes:
        lists: the names under which a document has its objects.
        recognises: whether an object is of this format.
        key: the session of an object of a file that is a part of one; empty for an object that is whole, None for one
            that is neither.
        read: the sessions of an object that is whole.
        assemble: the sessions of the parts with one key.
    """

    lists: frozenset[str]
    recognises: Callable[[Mapping[str, Any]], bool]
    key: Callable[[Part, str], str | None] = _is_whole
    read: Callable[[Part, Terms], Iterator[Draft]] = _has_no_session
    assemble: Callable[[str, Sequence[Part], Terms], Iterator[Draft]] = _has_no_parts


# In the order in which they are tried: each is recognised by names that none before it has.
JSON_FORMATS: Mapping[ChatFormat, JsonFormat] = {
    "intercom": JsonFormat(intercom.LISTS, intercom.recognises, read=intercom.read),
    "zendesk": JsonFormat(zendesk.LISTS, zendesk.recognises, read=zendesk.read),
    "twilio": JsonFormat(twilio.LISTS, twilio.recognises, key=twilio.key, assemble=twilio.assemble),
    "rasa": JsonFormat(rasa.LISTS, rasa.recognises, key=rasa.key, read=rasa.read, assemble=rasa.assemble),
    "dialogflow": JsonFormat(
        dialogflow.LISTS, dialogflow.recognises, dialogflow.key, dialogflow.read, dialogflow.assemble
    ),
    "slack": JsonFormat(slack.LISTS, slack.recognises, key=slack.key, assemble=slack.assemble),
}
JSON_LISTS = frozenset(name for one in JSON_FORMATS.values() for name in one.lists)


def recognised(record: Any) -> ChatFormat | None:
    """The format of an object; None for Parley's own, or an unknown one."""
    if not isinstance(record, dict):
        return None
    fields = cast("dict[str, Any]", record)
    return next((name for name, one in JSON_FORMATS.items() if one.recognises(fields)), None)


__all__ = [
    "CHAT_FORMATS",
    "CHAT_ROLES",
    "JSON_FORMATS",
    "JSON_LISTS",
    "ChatFormat",
    "ChatRole",
    "Draft",
    "JsonFormat",
    "Part",
    "Roles",
    "Terms",
    "recognised",
    "transcript",
    "whatsapp",
]
