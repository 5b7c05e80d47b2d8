"""Zendesk: tickets with their comments, as the JSON export has them, and chats of the Chat API.

https://support.zendesk.com/hc/en-us/articles/4408886165402
https://developer.zendesk.com/api-reference/live-chat/chat-api/chats/
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parley.domain.chat_formats.drafts import ChatRole, Draft, Terms
from parley.domain.chat_formats.html_text import plain_text
from parley.domain.chat_formats.part import Part

LISTS = frozenset(("tickets", "chats", "results"))
CHAT_TYPES = frozenset(("chat", "offline_msg"))
SENDERS: Mapping[str, ChatRole] = {"visitor": "user", "trigger": "bot", "bot": "bot", "answerbot": "bot"}
BOT_CHANNELS = frozenset(("answer_bot_for_web_widget", "answer_bot", "rule"))
# A line of a chat within a comment: "(10:02:11) Ann: Hello".
CHAT_LINE = re.compile(r"^\((\d{1,2}:\d{2}:\d{2}(?: [AP]M)?)\) ([^:\n]{1,100}): ?(.*)$")
# A line that says what happened: "(10:02:11) *** Ann joined the chat ***", of agents.
EVENT_LINE = re.compile(r"^\(\d{1,2}:\d{2}:\d{2}(?: [AP]M)?\) \*\*\*(?: (.{1,100}) joined the chat)?")


def recognises(record: Mapping[str, Any]) -> bool:
    """Whether an object is a ticket or a chat of Zendesk."""
    is_chat = record.get("type") in CHAT_TYPES and ("history" in record or "visitor" in record)
    return is_chat or "requester_id" in record or ("requester" in record and "comments" in record)


def read(record: Part, terms: Terms) -> Iterator[Draft]:
    """A ticket, or a chat. Comments that are not public are left out."""
    yield _chat(record, terms) if record.text("type") in CHAT_TYPES else _ticket(record, terms)


def _ticket(record: Part, terms: Terms) -> Draft:
    if not record.is_list("comments"):
        raise record.problem("comments", "is missing: export the tickets with their comments")
    requester, name = record.text("requester_id"), record.inner("requester").text("name")
    requester = requester or record.inner("requester").text("id")
    draft = Draft(session_id=record.needed_text("id"), user_id=requester)
    for comment in record.list_of("comments"):
        if comment.flag("public") is not False:
            _comment(draft, comment, requester, name, terms)
    if record.text("status") in ("solved", "closed"):
        draft.solved = True
    return draft


def _comment(draft: Draft, comment: Part, requester: str, requester_name: str, terms: Terms) -> None:
    text = comment.text("plain_body") or plain_text(comment.text("html_body")) or comment.text("body")
    time = comment.when("created_at")
    lines = _chat_lines(text)
    if not lines:
        draft.say(_author(comment, requester, terms), text, time)
        return
    # Times of a chat within a comment have no date, so they are left out.
    visitor = _visitor([name for name, _ in lines], requester_name, text)
    for name, said in lines:
        draft.say(terms.roles.named(name) or ("user" if name == visitor else "agent"), said)


def _visitor(names: Sequence[str], requester: str, text: str) -> str:
    """Who is the user of a chat: the requester, or else the first who did not join it as agents do."""
    joined = {found[1] for line in text.splitlines() if (found := EVENT_LINE.match(line))}
    return requester if requester in names else next((name for name in names if name not in joined), names[0])


def _author(comment: Part, requester: str, terms: Terms) -> ChatRole:
    author = comment.text("author_id") or comment.inner("author").text("id")
    if role := terms.roles.named(author):
        return role
    if author == requester:
        return "user"
    return "bot" if author == "-1" or comment.inner("via").text("channel") in BOT_CHANNELS else "agent"


def _chat_lines(text: str) -> list[tuple[str, str]]:
    """The names and texts of a chat that is a comment; none where a comment is not a chat. Zendesk adds events."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if EVENT_LINE.match(line):
            continue
        if said := CHAT_LINE.match(line):
            found.append((said[2].strip(), said[3]))
        elif found:
            name, before = found[-1]
            found[-1] = (name, f"{before}\n{line}")
    return found


def _chat(record: Part, terms: Terms) -> Draft:
    visitor = record.inner("visitor")
    draft = Draft(session_id=record.needed_text("id"), user_id=visitor.text("id", "email", "name"))
    draft.say("user", record.text("message"), record.when("timestamp"))
    for event in record.list_of("history"):
        if event.text("type") == "chat.msg":
            draft.say(_sender(event, visitor.text("name"), terms), event.text("msg"), event.when("timestamp"))
    return draft


def _sender(event: Part, visitor: str, terms: Terms) -> ChatRole:
    name = event.text("name")
    if role := terms.roles.named(name):
        return role
    if sender := event.text("sender_type").casefold():
        return SENDERS.get(sender, "agent")
    return "user" if name == visitor or event.text("nick").startswith("visitor") else "agent"
