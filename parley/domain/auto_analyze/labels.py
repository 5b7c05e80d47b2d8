"""Consistent labels: a normalized spelling, and the mapping of duplicates to canonical labels."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from parley.domain.reply_json import read_reply_json
from parley.domain.requests import ChatReply, Finish

# From so many labels on, a reply that puts all of them into one group counts as unusable.
SUSPICIOUS = 4
INNER = "/&'-"
# Punctuation and signs that tell labels apart: "50% off", "C# help", "a@b".
MEANT = frozenset("#%@")
# Signs of markup or layout.
DROPPED = frozenset("<>=|~^`\u00b4\u00a8\ufffd")
# Hyphens, whatever a line break may do at them; a dash is punctuation. Soft hyphens and joiners show nothing.
SAME = str.maketrans({"’": "'", "\u2010": "-", "\u2011": "-"})
HIDDEN = re.compile("[\u00ad\u034f\u200c-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff]")
# A point inside a word or before one: "node.js", ".net". One at the end of a word ends a sentence.
POINT = re.compile(r"(?:(?<=\w)|(?<!\S))\.(?=\w)")


def normalized(label: str) -> str:
    """The spelling in which a label is stored: lower case, single spaces, no punctuation that carries no meaning."""
    text = unicodedata.normalize("NFKC", HIDDEN.sub("", label).translate(SAME)).translate(SAME)
    # The lower case of the Turkish capital is an i with another dot on it.
    lower = unicodedata.normalize("NFC", text.lower().replace("i\u0307", "i"))
    points = {found.start() for found in POINT.finditer(lower)}
    cleaned = "".join(char if place in points or _is_kept(char) else " " for place, char in enumerate(lower))
    return " ".join(cleaned.split()).strip(f"{INNER} ")


def _is_kept(char: str) -> bool:
    """Whether it is a letter, a digit, a mark (many scripts write vowels as marks), or a sign with a meaning."""
    return char in INNER or char in MEANT or (unicodedata.category(char)[0] in "LMNS" and char not in DROPPED)


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
