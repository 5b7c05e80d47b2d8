"""Builds the sample chats from their written sources: `python -m samples.chats.build [folder]`.

A source is a list of sessions, each with a header and its messages:

    # containment | intent; intent | transfer reason or drop-off location | language | user=… bot=… hour=…
    b: {hi}
    u: what the user wrote

`u`, `b` and `a` are user, bot and agent. `{hi}` is replaced by a fixed phrase of the bot (`sources/phrases.txt`),
`\\n` by a line break. Ids, users, bots and times are computed from a hash of the session's text, so the same sources
give the same bytes.
"""

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "sources"
PHRASES = "phrases.txt"

ROLES = {"u": "user", "b": "bot", "a": "agent"}
BOTS = {"web": "tilly-web", "app": "tilly-app", "mobile": "tilly-mobile"}
BOT_OF = ("web", "web", "web", "app", "app", "mobile")

START = datetime(2026, 5, 3, tzinfo=UTC)
DAYS = 42
HOURS = (0, 1, 5, 6, 7, 7, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 11, 11, 11, 12, 12, 13, 13, 14, 14, 14, 15, 15, 16)
HOURS += (16, 16, 17, 17, 17, 18, 18, 18, 18, 19, 19, 19, 20, 20, 20, 21, 21, 22, 22, 23, 2, 3, 4)
AGENT_HOURS = tuple(hour for hour in HOURS if 7 <= hour < 22)

INTENTS = {
    "account details",
    "billing question or dispute",
    "cancel contract",
    "change plan",
    "complaint or feedback",
    "equipment delivery or return",
    "internet outage",
    "login problem",
    "move house",
    "number porting",
    "order a new service",
    "pay bill",
    "privacy request",
    "roaming and mobile data",
    "router setup",
    "sim card",
    "slow internet",
    "technician appointment",
    "tv problem",
    "other or unclear",
}
TRANSFER_REASONS = {
    "accessibility",
    "asked for a human",
    "billing dispute",
    "bot did not understand",
    "cancellation retention",
    "could not verify",
    "escalated complaint",
    "needs agent rights",
    "privacy or legal",
    "technical fault",
}
DROP_OFF_LOCATIONS = {
    "after a wrong answer",
    "form or survey",
    "greeting",
    "identity verification",
    "payment",
    "plan or offer choice",
    "troubleshooting",
    "waiting for an agent",
}
END_LABELS = {"agent": TRANSFER_REASONS, "dropOff": DROP_OFF_LOCATIONS, "selfService": {"-"}}


@dataclass(frozen=True)
class Written:
    """One session of a source. `end`: its transfer reason or drop-off location."""

    containment: str
    intents: list[str]
    end: str
    language: str
    options: dict[str, str]
    lines: list[tuple[str, str]]

    @property
    def key(self) -> str:
        return repr(self.lines) + repr(self.options)

    @property
    def channel(self) -> str:
        return self.options.get("bot") or BOT_OF[number(self.key, "bot") % len(BOT_OF)]


@dataclass(frozen=True)
class Placed:
    """A session with its time of start."""

    written: Written
    start: datetime


def number(*key: object) -> int:
    """Return a large number that depends only on the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8])


def read(path: Path) -> Iterator[Written]:
    for block in re.split(r"\n(?=# )", path.read_text(encoding="utf-8").strip()):
        head, *body = [line for line in block.splitlines() if line]
        yield _written(head.removeprefix("# "), [_line(line) for line in body])


def _written(head: str, lines: list[tuple[str, str]]) -> Written:
    containment, intents, end, language, *options = [part.strip() for part in head.split("|")]
    pairs = dict(option.split("=", 1) for option in " ".join(options).split())
    written = Written(containment, intents.split("; "), end, language, pairs, lines)
    if not set(written.intents) <= INTENTS or end not in END_LABELS[containment]:
        raise ValueError(f"intent, transfer reason or drop-off location is not in the vocabulary: {head}")
    return written


def _line(line: str) -> tuple[str, str]:
    role, _, text = line.partition(": ")
    if role not in ROLES or not text:
        raise ValueError(f"must be a message such as `u: text`, `b: text` or `a: text`: {line!r}")
    return ROLES[role], text.replace("\\n", "\n")


def place(sessions: list[Written]) -> list[Placed]:
    """Spread the sessions over the weeks. Several sessions of one user keep the order of their source."""
    shuffled = sorted(sessions, key=lambda written: number(written.key, "order"))
    placed = sorted(
        (Placed(written, _start(written, index, len(shuffled))) for index, written in enumerate(shuffled)),
        key=lambda one: one.start,
    )
    waiting = {user: [one for one in sessions if one.options.get("user") == user] for user in _named(sessions)}
    return [
        Placed(waiting[user].pop(0), one.start) if (user := one.written.options.get("user")) else one for one in placed
    ]


def _named(sessions: list[Written]) -> set[str]:
    return {one.options["user"] for one in sessions if "user" in one.options}


def _start(written: Written, index: int, count: int) -> datetime:
    # Sessions of one user may exchange their times, so all of them are in the hours of the agents.
    by_day = written.containment == "agent" or "user" in written.options
    hours = AGENT_HOURS if by_day else HOURS
    hour = int(written.options.get("hour", hours[number(written.key, "hour") % len(hours)]))
    seconds = number(written.key, "second") % 3600
    return START + timedelta(days=index * DAYS // count, hours=hour, seconds=seconds)


def messages(written: Written, start: datetime, phrases: dict[str, str]) -> list[dict[str, str]]:
    timed = number(written.key, "timed") % 10 > 0
    said, before = start, ""
    out = []
    for nth, (role, line) in enumerate(written.lines):
        text = _spoken(line, written.channel, phrases)
        if before:
            said += timedelta(seconds=_pause(role, before, text, number(written.key, nth)))
        out.append({"role": role, "text": text} | ({"time": f"{said:%Y-%m-%dT%H:%M:%SZ}"} if timed else {}))
        before = role
    return out


def _spoken(line: str, channel: str, phrases: dict[str, str]) -> str:
    def phrase(found: re.Match[str]) -> str:
        return phrases.get(f"{found[1]}.{channel}") or phrases[found[1]]

    return re.sub(r"{(\w+)}", phrase, line)


def _pause(role: str, before: str, text: str, variation: int) -> int:
    """Return the seconds before a message: a bot answers at once, people type, and an agent is not free at once."""
    if role == "bot":
        return 1 + variation % 3 if before == "user" else 60 + variation % 120
    if role == "agent" and before != "user":
        return 5 + variation % 20 if before == "agent" else 120 + variation % 420
    return 4 + len(text) // (3 if role == "user" else 5) + variation % 25


def _phrases(folder: Path) -> dict[str, str]:
    lines = (folder / PHRASES).read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if line)


def build() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    phrases = _phrases(SOURCES)
    written = [session for path in sorted(SOURCES.glob("*.txt")) if path.name != PHRASES for session in read(path)]
    placed = place(written)
    ids = [f"chat-{index:04}" for index in range(1, len(placed) + 1)]
    sessions = [_session(id_, one, phrases) for id_, one in zip(ids, placed, strict=True)]
    return sessions, [_truth(id_, one.written) for id_, one in zip(ids, placed, strict=True)]


def _session(session_id: str, placed: Placed, phrases: dict[str, str]) -> dict[str, Any]:
    written = placed.written
    return {
        "session_id": session_id,
        "user_id": f"u{number(written.options.get('user', written.key), 'user') % 10**8:08}",
        "bot_id": BOTS[written.channel],
        "containment": written.containment,
        "messages": messages(written, placed.start, phrases),
    }


def _truth(session_id: str, written: Written) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "intents": written.intents,
        "transfer_reason": written.end if written.containment == "agent" else None,
        "drop_off_location": written.end if written.containment == "dropOff" else None,
        "language": written.language,
    }


def write(folder: Path) -> None:
    for name, rows in zip(("support.jsonl", "support.truth.jsonl"), build(), strict=True):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text("".join(lines), encoding="utf-8")


def counts() -> str:
    """Return the counts in the README."""
    sessions, truths = build()
    lengths = sorted(len(session["messages"]) for session in sessions)
    counters = {
        "containment": Counter(session["containment"] for session in sessions),
        "main intent": Counter(truth["intents"][0] for truth in truths),
        "transfer reason": Counter(truth["transfer_reason"] for truth in truths if truth["transfer_reason"]),
        "drop-off location": Counter(truth["drop_off_location"] for truth in truths if truth["drop_off_location"]),
        "language": Counter(truth["language"] for truth in truths),
    }
    lines = [
        f"sessions: {len(sessions)}, users: {len({session['user_id'] for session in sessions})}",
        f"messages: {sum(lengths)}, from {lengths[0]} to {lengths[-1]}, median {lengths[len(lengths) // 2]}",
        f"several intents: {sum(len(truth['intents']) > 1 for truth in truths)}",
    ]
    lines += [f"{name}: " + ", ".join(f"{k} {v}" for k, v in count.most_common()) for name, count in counters.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
    sys.stdout.write(counts())
