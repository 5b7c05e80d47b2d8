"""Short sessions with the customers of a bank: their intents are known, classes have very different sizes.

Some sessions are exact copies of another one, and some are near copies: the same sentence with another amount, place or
day, another greeting, or a slip of the keyboard.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random  # noqa: TID251 - the sessions are random
from typing import Any

from benchmarks.meaning import intents

LARGEST, SMALLEST = 32, 3
COPIES, NEAR_COPIES = 60, 60
SLOTS = {"amount": intents.AMOUNTS, "place": intents.PLACES, "day": intents.DAYS, "card": intents.CARDS}


@dataclass(frozen=True)
class Data:
    """Sessions with their true intents. `copies` and `near`: pairs of sessions that should have one label."""

    path: Path
    truth: dict[str, str]
    copies: tuple[tuple[str, str], ...] = ()
    near: tuple[tuple[str, str], ...] = ()


@dataclass
class _Said:
    intent: str
    template: str
    text: str
    answer: str
    follows: str


def write_bank(directory: Path, seed: int) -> Data:
    """Write the sessions into a directory. The same seed gives the same sessions."""
    chance = Random(seed)
    said = [_said(intent, chance) for intent, size in _sizes(chance).items() for _ in range(size)]
    chance.shuffle(said)
    pairs: dict[str, list[tuple[str, str]]] = {"copies": [], "near": []}
    first = len(said)
    for kind, count in (("copies", COPIES), ("near", NEAR_COPIES)):
        for at in chance.sample(range(first), count):
            one = said[at]
            pairs[kind].append((_name(at), _name(len(said))))
            said.append(one if kind == "copies" else _near(one, chance))
    order = [*range(len(said))]
    chance.shuffle(order)
    path = directory / "bank.jsonl"
    path.write_text("".join(json.dumps(_session(at, said[at])) + "\n" for at in order), encoding="utf-8")
    truth = {_name(at): one.intent for at, one in enumerate(said)}
    return Data(path, truth, tuple(pairs["copies"]), tuple(pairs["near"]))


def _sizes(chance: Random) -> dict[str, int]:
    """A few intents have many sessions and most have few."""
    names = [*intents.INTENTS]
    chance.shuffle(names)
    return {name: max(round(LARGEST / (1 + place / 6)), SMALLEST) for place, name in enumerate(names)}


def _said(intent: str, chance: Random) -> _Said:
    template = chance.choice(intents.INTENTS[intent])
    return _Said(
        intent, template, _filled(template, chance), chance.choice(intents.ANSWERS), chance.choice(intents.FOLLOWING)
    )


def _filled(template: str, chance: Random) -> str:
    sentence = template.format(**{slot: chance.choice(values) for slot, values in SLOTS.items()})
    return f"{chance.choice(intents.OPENERS)}{sentence}{chance.choice(intents.CLOSERS)}"


def _near(one: _Said, chance: Random) -> _Said:
    text = _filled(one.template, chance)
    return _Said(one.intent, one.template, chance.choice((text, _slip(text, chance))), one.answer, one.follows)


def near_copy(text: str, chance: Random) -> str:
    """The text with a greeting and a slip of the keyboard."""
    return f"{chance.choice([opener for opener in intents.OPENERS if opener])}{_slip(text, chance)}"


def _slip(text: str, chance: Random) -> str:
    """The text with two neighbouring characters exchanged."""
    at = chance.randrange(max(len(text) - 1, 1))
    return text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]


def _name(at: int) -> str:
    return f"bank-{at:04}"


def _session(at: int, said: _Said) -> dict[str, Any]:
    messages = [("user", said.text), ("bot", said.answer), ("user", said.follows)]
    return {
        "session_id": _name(at),
        "user_id": f"u{at % 97}",
        "containment": "selfService",
        "messages": [{"role": role, "text": text} for role, text in messages if text],
    }
