"""What every format makes of its sessions: who said what, and how the session ended."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from parley.domain.chat import Containment

ChatRole = Literal["user", "bot", "agent"]
DEFAULT_SESSION_GAP_HOURS = 24.0


@dataclass(frozen=True)
class Said:
    """One message. `time` is aware, or None where the format has none."""

    role: ChatRole
    text: str
    time: datetime | None = None


@dataclass
class Draft:
    """One session of a file in another format.

    Attributes:
        session_id: its key within the file.
        user_id: whose session it is; empty where the format does not say, then it is the session's own.
        handed_over: whether the format says that it was transferred to a person.
        solved: whether the format says that the bot solved it; None where it does not say.
    """

    session_id: str
    user_id: str = ""
    bot_id: str = ""
    messages: list[Said] = field(default_factory=list)
    handed_over: bool = False
    solved: bool | None = None

    def say(self, role: ChatRole, text: str, time: datetime | None = None) -> None:
        """Add a message, if it has text."""
        if text.strip():
            self.messages.append(Said(role, text.strip(), time))

    def session(self) -> dict[str, Any]:
        """The fields of a `ChatSession`, which are not checked yet."""
        return {
            "session_id": self.session_id,
            "user_id": self.user_id or self.session_id,
            "bot_id": self.bot_id,
            "containment": self.containment(),
            "messages": tuple({"role": one.role, "text": one.text, "time": one.time} for one in self.messages),
        }

    def containment(self) -> Containment:
        """How the session ended: as the format says, or else by who had the last word."""
        if self.handed_over or any(one.role == "agent" for one in self.messages):
            return Containment.AGENT
        if self.solved is not None:
            return Containment.SELF_SERVICE if self.solved else Containment.DROP_OFF
        wrote = any(one.role == "user" for one in self.messages)
        answered = wrote and self.messages[-1].role == "bot"
        return Containment.SELF_SERVICE if answered else Containment.DROP_OFF


class Roles:
    """Who is a user, an agent or a bot, where a format has only names. The caller's names decide first."""

    def __init__(self, given: Mapping[str, ChatRole] | None = None) -> None:
        self._given: dict[str, ChatRole] = {_plain(name): role for name, role in (given or {}).items()}

    def named(self, *names: str) -> ChatRole | None:
        """The role that the caller gave one of the names of a person."""
        for name in names:
            if role := self._given.get(_plain(name)):
                return role
        return None

    @property
    def others(self) -> ChatRole | None:
        """The role of a person without a name from the caller, if the caller named any: the other side."""
        if not self._given:
            return None
        return "agent" if "user" in self._given.values() else "user"

    def of(self, *names: str, is_user: bool) -> ChatRole:
        """The role of a person. `is_user`: what the format suggests, if the caller named no one."""
        return self.named(*names) or self.others or ("user" if is_user else "agent")


@dataclass(frozen=True)
class People:
    """Who is in an export, where that is in a file of its own: names by id, and the ids of bots."""

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    bots: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Terms:
    """How a file is read.

    Attributes:
        roles: of names, where the format has names only.
        gap: a silence that ends a session, where the format has no sessions.
        people: who is in the export.
    """

    roles: Roles = field(default_factory=Roles)
    gap: timedelta = timedelta(hours=DEFAULT_SESSION_GAP_HOURS)
    people: People = field(default_factory=People)


def parted(messages: Iterable[tuple[datetime, Any]], gap: timedelta) -> Iterator[list[Any]]:
    """Messages in the order of their times, cut where nothing was said for longer than the gap."""
    part: list[Any] = []
    before: datetime | None = None
    for time, message in messages:
        if part and before is not None and time - before > gap:
            yield part
            part = []
        part.append(message)
        before = time
    if part:
        yield part


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
