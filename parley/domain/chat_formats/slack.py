"""Slack: the messages of channels, as the export of a workspace has them in a file for each day.

https://slack.com/help/articles/220556107-How-to-read-Slack-data-exports
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from parley.domain.chat_formats.drafts import ChatRole, Draft, People, Terms, parted
from parley.domain.chat_formats.part import Part
from parley.domain.errors import InvalidInput

LISTS: frozenset[str] = frozenset()
# The kinds of messages that a person or a bot wrote; all others say what happened in the channel.
WRITTEN = frozenset(("", "bot_message", "file_share", "me_message", "thread_broadcast", "slack_audio", "slack_video"))
DAY = re.compile(r"\d{4}-\d{2}-\d{2}$")
MENTION = re.compile(r"<@([A-Z0-9]+)(?:\|([^>]*))?>")
CHANNEL = re.compile(r"<#[A-Z0-9]+\|([^>]*)>")
LINK = re.compile(r"<((?:https?|mailto|tel):[^|>]+)(?:\|([^>]*))?>")
SPECIAL = re.compile(r"<!(?:subteam\^[A-Z0-9]+\|)?@?([^|>]+)(?:\|([^>]*))?>")


def recognises(record: Mapping[str, Any]) -> bool:
    """Whether an object is a message of Slack."""
    return "ts" in record and ("text" in record or record.get("type") == "message")


def key(record: Part, file: str) -> str | None:
    """The channel and the thread of a message, `channel` outside threads. None for what was not written.

    A channel is a folder with a file for each day, or a file alone.
    """
    if record.text("subtype") not in WRITTEN or record.flag("hidden"):
        return None
    place = PurePosixPath(file)
    channel = place.parent.name if DAY.match(place.stem) else place.stem
    return f"{channel or place.stem}/{record.text('thread_ts') or 'channel'}"


def assemble(place: str, messages: Sequence[Part], terms: Terms) -> Iterator[Draft]:
    """The session of a thread, or the sessions of a channel outside threads, which silences part.

    `place`: the channel and the thread.
    """
    channel, _, thread = place.rpartition("/")
    own = {message.needed_text("ts"): message for message in messages}  # a thread's message may be in the channel too
    placed = sorted(own.values(), key=_seconds)
    parts = [placed] if thread != "channel" else parted(_timed(placed), terms.gap)
    for part in parts:
        yield _session(channel, part, terms)


def people(listed: Any, *, where: str) -> People:
    """The people of a workspace, from `users.json`.

    Raises:
        InvalidInput: it is not a list of people.
    """
    if not isinstance(listed, list):
        raise InvalidInput("must be a list of people: use the export as it is", where=where)
    names: dict[str, str] = {}
    bots: set[str] = set()
    for person in Part({"people": listed}, where).list_of("people"):
        name = person.inner("profile").text("display_name", "real_name") or person.text("real_name", "name")
        names[person.needed_text("id")] = name
        if person.flag("is_bot"):
            bots.add(person.needed_text("id"))
    return People(names, frozenset(bots))


def _session(channel: str, messages: Sequence[Part], terms: Terms) -> Draft:
    writers = [_writer(message) for message in messages]
    persons = [who for who, message in zip(writers, messages, strict=True) if not _is_bot(message, who, terms)]
    starter = persons[0] if persons else ""
    draft = Draft(session_id=f"{channel}-{messages[0].needed_text('ts')}", user_id=starter)
    for who, message in zip(writers, messages, strict=True):
        draft.say(_role(message, who, starter, terms), _plain(message.text("text"), terms), message.when("ts"))
    return draft


def _role(message: Part, who: str, starter: str, terms: Terms) -> ChatRole:
    name = terms.people.names.get(who, "")
    known = terms.roles.named(who, *filter(None, (name, message.inner("user_profile").text("real_name"))))
    if known or _is_bot(message, who, terms):
        return known or "bot"
    return terms.roles.of(who, is_user=who == starter)


def _writer(message: Part) -> str:
    return message.text("user", "bot_id", "username")


def _is_bot(message: Part, who: str, terms: Terms) -> bool:
    return message.has("bot_id") or who in terms.people.bots or who == "USLACKBOT"


def _seconds(message: Part) -> float:
    try:
        return float(message.needed_text("ts"))
    except ValueError:
        raise message.problem("ts", "is not a time of Slack, such as 1709283600.000100") from None


def _timed(messages: Sequence[Part]) -> Iterator[tuple[Any, Part]]:
    return ((message.when("ts"), message) for message in messages)


def _plain(text: str, terms: Terms) -> str:
    """The text that a reader sees: names in place of ids, and the text of links."""

    def mention(found: re.Match[str]) -> str:
        return "@" + (found[2] or terms.people.names.get(found[1], found[1]))

    text = CHANNEL.sub(r"#\1", MENTION.sub(mention, text))
    text = LINK.sub(lambda found: f"{found[2]} ({found[1]})" if found[2] else found[1], text)
    return html.unescape(SPECIAL.sub(lambda found: f"@{found[2] or found[1]}", text))
