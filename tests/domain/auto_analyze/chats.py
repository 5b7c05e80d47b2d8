"""Chat sessions, and replies about them, in few words."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from parley.domain.auto_analyze.sampling import SessionFacts
from parley.domain.chat import ChatMessage, ChatSession, Containment
from parley.domain.requests import ChatReply, Finish, Usage

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
KINDS = tuple(Containment)


def said(*texts: str, role: Any = "user") -> list[ChatMessage]:
    return [ChatMessage(role=role, text=text) for text in texts]


def chat(name: str = "s", *texts: str, containment: Containment = Containment.SELF_SERVICE) -> ChatSession:
    return ChatSession(session_id=name, user_id="u", containment=containment, messages=tuple(said(*texts or ("Hi",))))


def mixed_facts(count: int) -> list[SessionFacts]:
    """Sessions whose length, containment and time do not depend on each other."""
    return [
        SessionFacts(
            position=at,
            session_id=f"s-{at}",
            tokens=10 + (at * 7919) % count,
            containment=KINDS[(at * 104_729 // 3) % 3],
            started_at=MONDAY + timedelta(minutes=(at * 1_299_709) % count),
        )
        for at in range(count)
    ]


def alike(count: int, *, started_at: datetime | None = MONDAY) -> list[SessionFacts]:
    return [SessionFacts(at, f"s-{at}", 40, Containment.AGENT, started_at) for at in range(count)]


def reply(content: Any, finish: Finish = Finish.STOP) -> ChatReply:
    """A reply of this text, or of this value as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    return ChatReply(text=text, finish=finish, usage=Usage(), model="m")


def grouped(*groups: Sequence[str]) -> ChatReply:
    """A reply in which each group is named by its first member."""
    return reply({"groups": [{"canonical": group[0], "members": list(group)} for group in groups]})
