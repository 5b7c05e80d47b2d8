"""Groups labels that mean the same, as a model would: never across meanings, and now and then not at all."""

from collections.abc import Hashable, Sequence
from typing import Any

from simulator.kinds import KINDS, Kind
from simulator.wording import fraction


def groups(labels: Sequence[str], system: str, seed: int, unmerged: float) -> list[dict[str, Any]]:
    """Every label in exactly one group, named by its shortest member. A share of `unmerged` stays alone."""
    kind = _kind(labels, system)
    whole = fraction(seed, *labels)
    found: dict[Hashable, list[str]] = {}
    for label in dict.fromkeys(labels):
        alone = fraction(seed, "unmerged", label, whole) < unmerged
        found.setdefault((label, "alone") if alone else kind.key(label), []).append(label)
    return [{"canonical": min(members, key=len), "members": members} for members in found.values()]


def _kind(labels: Sequence[str], system: str) -> Kind:
    """The kind of label that the prompt names, else the one of which most are known."""
    asked = [kind for kind in KINDS.values() if kind.name.replace("_", " ") in system.replace("_", " ")]
    if len(asked) == 1:
        return asked[0]
    return max(KINDS.values(), key=lambda kind: sum(kind.meaning(label) is not None for label in labels))
