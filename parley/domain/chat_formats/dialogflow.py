"""Dialogflow: CX conversations, rows of CX's export to BigQuery, and entries of Cloud Logging (CX and ES).

https://docs.cloud.google.com/dialogflow/cx/docs/concept/export-bq
https://docs.cloud.google.com/dialogflow/cx/docs/reference/rest/v3/projects.locations.agents.conversations
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from parley.domain.chat_formats.drafts import Draft, Terms
from parley.domain.chat_formats.html_text import plain_text
from parley.domain.chat_formats.part import Part

LISTS = frozenset(("conversations", "entries"))
SESSION = re.compile(r"/(?:sessions|conversations)/([^/]+)")
# ES writes a reply to Cloud Logging as text in the form of a protocol buffer.
TEXT_SESSION = re.compile(r'session_id: "((?:[^"\\]|\\.)*)"')
TEXT_QUERY = re.compile(r'resolved_query: "((?:[^"\\]|\\.)*)"')
TEXT_SPEECH = re.compile(r'speech: "((?:[^"\\]|\\.)*)"')
MESSAGES = ("responseMessages", "response_messages", "fulfillmentMessages", "fulfillment_messages")
HANDOVERS = ("liveAgentHandoff", "live_agent_handoff", "telephonyTransferCall", "telephony_transfer_call")
ESCAPES = re.compile(rb"\\(?:([0-7]{1,3})|(.))")
EARLIEST = datetime(1, 1, 1, tzinfo=UTC)


def recognises(record: Mapping[str, Any]) -> bool:
    """Whether an object is a conversation, a turn or a log entry of Dialogflow."""
    if "interactions" in record or {"conversation_name", "turn_position"} <= record.keys():
        return True
    if "queryResult" in record or "query_result" in record:
        return True
    payload = record.get("jsonPayload")
    is_logged = isinstance(payload, dict) and ("queryInput" in payload or "queryResult" in payload)
    return is_logged or "Dialogflow" in str(record.get("textPayload", ""))[:100]


def key(record: Part, file: str) -> str | None:
    """The session of a turn; empty for a conversation, which has all of its turns. None for other log entries."""
    del file
    if record.is_list("interactions"):
        return ""
    if not _is_turn(record):
        return None
    name = record.text("conversation_name", "session") or record.inner("labels").text("session_id")
    name = name or _text(TEXT_SESSION, record) or record.text("trace")
    if not name:
        raise record.problem("session", "is missing: the log entry must have the label session_id or a session")
    return _short(name)


def read(record: Part, terms: Terms) -> Iterator[Draft]:
    """A conversation of CX, its turns in the order of their times."""
    del terms
    draft = Draft(session_id=_short(record.needed_text("name")), bot_id=_agent(record.text("name")))
    for turn in sorted(record.list_of("interactions"), key=lambda one: one.when("createTime") or EARLIEST):
        _add(draft, turn)
    if record.inner("metrics").flag("hasLiveAgentHandoff"):
        draft.handed_over = True
    yield draft


def assemble(session: str, turns: Sequence[Part], terms: Terms) -> Iterator[Draft]:
    """The turns of a session in their order: by position, or else by time."""
    del terms
    draft = Draft(session_id=session)
    for turn in sorted(turns, key=_place):
        _add(draft, turn)
    yield draft


def _is_turn(record: Part) -> bool:
    """Whether there is a reply; Cloud Logging has entries for requests and webhooks, too."""
    if record.has("textPayload"):
        return str(record.raw("textPayload")).startswith("Dialogflow Response")
    if not record.has("jsonPayload"):
        return True
    return isinstance(record.raw("jsonPayload"), dict) and record.inner("jsonPayload").has("queryResult")


def _place(turn: Part) -> tuple[int, datetime]:
    position = turn.text("turn_position")
    if position and not position.isdecimal():
        raise turn.problem("turn_position", "must be a whole number")
    return int(position or 0), turn.when("request_time", "timestamp", "receiveTimestamp") or EARLIEST


def _add(draft: Draft, turn: Part) -> None:
    time = turn.when("createTime", "request_time", "timestamp", "receiveTimestamp")
    if isinstance(turn.raw("textPayload"), str):
        draft.say("user", _text(TEXT_QUERY, turn), time)
        draft.say("bot", _text(TEXT_SPEECH, turn), time)
        return
    result = _result(turn)
    draft.say("user", _asked(turn, result), time)
    draft.say("bot", "\n".join(_answers(result)) or result.text("fulfillmentText", "fulfillment_text"), time)
    draft.handed_over = draft.handed_over or _hands_over(result)


def _result(turn: Part) -> Part:
    """The result of a turn, in each of the forms that have one."""
    holder = _object(turn, "response")
    for outer in (holder, turn.inner("jsonPayload"), turn):
        for name in ("queryResult", "query_result"):
            if outer.has(name):
                return outer.inner(name)
    return holder


def _object(turn: Part, name: str) -> Part:
    """An object, which an export to a table may have as a text of JSON."""
    given = turn.raw(name)
    if not isinstance(given, str):
        return turn.inner(name)
    try:
        data = json.loads(given)
    except (ValueError, RecursionError):
        raise turn.problem(name, "is not JSON: export the column as it is") from None
    if not isinstance(data, dict):
        raise turn.problem(name, "must be an object")
    return turn.same_place(cast("dict[str, Any]", data))


def _asked(turn: Part, result: Part) -> str:
    asked = _object(turn, "request").inner("queryInput").inner("text").text("text")
    return asked or result.text("queryText", "query_text", "text", "transcript") or turn.text("requestUtterances")


def _messages(result: Part) -> Iterator[Part]:
    for name in MESSAGES:
        yield from result.list_of(name)


def _answers(result: Part) -> list[str]:
    """The texts of a reply. A bot may have them for several platforms and for its voice: a user had one of these."""
    found: dict[str, list[str]] = {"": []}
    for message in _messages(result):
        platform = message.text("platform").removeprefix("PLATFORM_UNSPECIFIED")
        found.setdefault(platform, []).extend(text for text in message.inner("text").texts("text") if text.strip())
    spoken = [text for message in _messages(result) if (text := _spoken(message))]
    return next((texts for texts in found.values() if texts), spoken)


def _spoken(message: Part) -> str:
    audio = message.inner("outputAudioText" if message.has("outputAudioText") else "output_audio_text")
    return audio.text("text") or plain_text(audio.text("ssml"))


def _hands_over(result: Part) -> bool:
    if any(one.has(name) for one in _messages(result) for name in HANDOVERS):
        return True
    return result.inner("intent").flag("liveAgentHandoff") is True


def _short(name: str) -> str:
    found = SESSION.search(name)
    return found[1] if found else name


def _agent(name: str) -> str:
    found = re.search(r"/agents/([^/]+)", name)
    return found[1] if found else ""


def _text(pattern: re.Pattern[str], record: Part) -> str:
    payload = record.raw("textPayload")
    found = pattern.search(payload) if isinstance(payload, str) else None
    return _unescaped(found[1]) if found else ""


def _unescaped(text: str) -> str:
    """The text of a protocol buffer's string: bytes beyond ASCII are octal numbers."""
    plain = {b"n": b"\n", b"t": b"\t", b"r": b"\r"}

    def replaced(found: re.Match[bytes]) -> bytes:
        return bytes([int(found[1], 8) & 255]) if found[1] else plain.get(found[2], found[2])

    return ESCAPES.sub(replaced, text.encode(errors="replace")).decode(errors="replace")
