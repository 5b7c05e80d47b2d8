"""Consistent labels: a normalized spelling, and the mapping of duplicates to canonical labels."""

import re
import unicodedata
from collections.abc import Mapping

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


def duplicates(mapping: Mapping[str, str]) -> int:
    """How many labels are mapped to another label."""
    return sum(label != canonical for label, canonical in mapping.items())


def composed(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """The mapping that applies `first` and then `second`. Labels that are not in `second` keep their name."""
    return {label: second.get(canonical, canonical) for label, canonical in first.items()}
