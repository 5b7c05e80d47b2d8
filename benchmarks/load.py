"""A mixed load of generations: questions and chats of the samples, for users of every tier. Its seed determines it.

The generations of one user are sequential. The shares are assumptions, and the savings depend on them.
"""

import json
import random  # noqa: TID251 - the load is random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.cache import QUESTIONS
from benchmarks.options import CHATS

TIERS = ("free", "basic", "pro", "business")
USERS = 40
SYSTEM = (
    "You are the assistant of Tidewold, a regional provider of internet, mobile and TV. Answer in plain words, in the "
    "language of the customer, in at most three sentences, and say what you cannot do."
)
# Of each kind of conversation, in percent.
SHARES = {"question": 30, "repeat": 25, "near repeat": 20, "chat": 15, "long chat": 10}
CHATS_IN_A_LONG_CHAT = 12
# The number of last questions of a chat that are sent, each with all earlier messages.
TURNS_OF_A_CHAT = 4
EVERY_TURN = 10**6
# With few users each has enough generations for a chat that is sent at every turn.
FEW_USERS = 4


@dataclass(frozen=True)
class Ask:
    """One generation, and the conversation that it belongs to."""

    conversation: int
    kind: str
    messages: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class User:
    id: str
    tier: str
    asks: tuple[Ask, ...]


@dataclass(frozen=True)
class Material:
    """The texts of the generations. `turns`: the number of last questions of a chat that are sent."""

    pairs: list[tuple[str, str]]
    chats: list[list[dict[str, str]]]
    turns: int


def draw(generations: int, seed: int = 1, *, max_users: int = USERS, turns: int = TURNS_OF_A_CHAT) -> list[User]:
    """A load of `generations`, spread evenly over the users."""
    chance = random.Random(seed)
    pairs = [(pair["one"], pair["other"]) for pair in _lines(QUESTIONS / "pairs.jsonl") if pair["same"]]
    chats = [_messages(chat) for chat in _lines(CHATS / "support.jsonl")]
    chats = [messages for messages in chats if sum(message["role"] == "user" for message in messages) > 1]
    material, numbers = Material(pairs, chats, turns), count()
    users = min(max_users, generations)
    shares = [generations // users + (number < generations % users) for number in range(users)]
    return [
        User(
            id=f"user-{number}",
            tier=TIERS[number % len(TIERS)],
            asks=_asks(shares[number], chance, material, numbers),
        )
        for number in range(users)
    ]


def _asks(number_of_asks: int, chance: random.Random, material: Material, numbers: Iterator[int]) -> tuple[Ask, ...]:
    """The generations of one user. A repeated question is one that the same user sent before."""
    sent_pairs: list[tuple[str, str]] = []
    asks: list[Ask] = []
    while len(asks) < number_of_asks:
        kind = chance.choices([*SHARES], [*SHARES.values()])[0]
        if kind == "question" or (not sent_pairs and "repeat" in kind):
            sent_pairs.append(chance.choice(material.pairs))
            turns, kind = [_question(sent_pairs[-1][0])], "question"
        elif "repeat" in kind:
            first, rephrased = chance.choice(sent_pairs)
            turns = [_question(rephrased if kind == "near repeat" else first)]
        else:
            parts = chance.sample(material.chats, CHATS_IN_A_LONG_CHAT if kind == "long chat" else 1)
            turns = _turns([message for part in parts for message in part], material.turns)
        number = next(numbers)
        asks += [Ask(number, kind, tuple(turn)) for turn in turns]
    return tuple(asks[:number_of_asks])


def _question(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def _turns(messages: list[dict[str, str]], turns: int) -> list[list[dict[str, str]]]:
    """The chat up to each of its last questions."""
    ends = [place + 1 for place, message in enumerate(messages) if message["role"] == "user"]
    return [[{"role": "system", "content": SYSTEM}, *messages[:end]] for end in ends[-turns:]]


def _messages(chat: dict[str, Any]) -> list[dict[str, str]]:
    roles = {"user": "user", "bot": "assistant", "agent": "assistant"}
    return [
        {"role": roles[message["role"]], "content": message["text"]}
        for message in chat["messages"]
        if message["text"].strip()
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
