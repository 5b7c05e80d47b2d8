"""Consistent labels: a normalized spelling, and the mapping of duplicates to canonical labels."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from parley.domain.reply_json import read_reply_json
from parley.domain.requests import ChatReply, Finish

# From so many labels on, a reply that puts all of them into one group counts as unusable.
SUSPICIOUS = 4
INNER = "/&'-"


def normalized(label: str) -> str:
    """The spelling in which a label is stored: lower case, single spaces, no punctuation around it."""
    text = unicodedata.normalize("NFKC", label).replace("’", "'").lower()
    cleaned = "".join(char if char in INNER or _in_a_word(char) else " " for char in text)
    return " ".join(cleaned.split()).strip(f"{INNER} ")


def _in_a_word(char: str) -> bool:
    """Whether it is a letter, a digit or a mark: many scripts write vowels as marks."""
    return unicodedata.category(char)[0] in "LMN"


def chunks(labels: Sequence[str], level: int, size: int) -> list[list[str]]:
    """Cut labels into chunks of one request each. Odd levels deal them out, so that chunks have other members."""
    count = max(-(-len(labels) // size), 1)
    if level % 2:
        return [list(labels[start::count]) for start in range(count)]
    return [list(labels[start : start + size]) for start in range(0, max(len(labels), 1), size)]


def duplicates(mapping: Mapping[str, str]) -> int:
    """How many labels are mapped to another label."""
    return sum(label != canonical for label, canonical in mapping.items())


def read_groups(reply: ChatReply, labels: Sequence[str]) -> tuple[dict[str, str], str]:
    """The mapping of every label to its canonical one, and the problem of the reply; empty if it is usable."""
    if reply.finish is not Finish.STOP:
        return {}, "the reply was cut"
    try:
        groups = read_reply_json(reply.text)["groups"]
        mapping, repeated = _mapping(groups)
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, "the reply does not follow the schema"
    return mapping, _problem(mapping, repeated, labels)


def _mapping(groups: list[dict[str, Any]]) -> tuple[dict[str, str], list[str]]:
    """The mapping, and labels in several groups. A canonical name that is not in its group is replaced by a member."""
    counted: Counter[str] = Counter()
    mapping: dict[str, str] = {}
    for group in groups:
        members = [normalized(member) for member in group["members"]]
        canonical = normalized(group["canonical"])
        if members and canonical not in members:
            canonical = members[0]
        counted.update(members)
        mapping |= dict.fromkeys(members, canonical)
    return mapping, [label for label, count in counted.items() if count > 1]


def _problem(mapping: Mapping[str, str], repeated: Sequence[str], labels: Sequence[str]) -> str:
    missing = [label for label in labels if label not in mapping]
    invented = [label for label in mapping if label not in labels]
    if missing or invented or repeated:
        return f"{len(missing)} labels missing, {len(invented)} invented, {len(repeated)} in several groups"
    if len(labels) >= SUSPICIOUS and len(set(mapping.values())) == 1:
        return f"all {len(labels)} labels in one group"
    return ""


def composed(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """The mapping that applies `first` and then `second`. Labels that are not in `second` keep their name."""
    return {label: second.get(canonical, canonical) for label, canonical in first.items()}
