"""Which labels are compared with each other, and which of them a reply may merge.

Labels that are written differently (case, blanks, hyphens, a plural) are merged by rule. The others are compared by a
model that sees their evidence: all in one request if they fit, else in chunks in which each label meets the labels that
are most alike to it. A reply decides about labels that were in one request, and about no others: what was merged in a
request is compared with the rest on the next level.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import mul
from typing import Any, NamedTuple

from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.labels import normalized
from parley.domain.auto_analyze.likeness import Likeness
from parley.domain.reply_json import read_reply_json
from parley.domain.requests import ChatReply, Finish

# A label meets so many labels that are alike to it, at least.
NEIGHBOURS = 10
# A reply with more labels missing, invented or in several groups than this share is not used.
TOLERATED_SHARE = 0.1
# From so many labels on, a reply that puts more than this share of them into one group is not used.
SUSPICIOUS, SUSPICIOUS_SHARE = 4, 0.8
# Labels with so many examples each, and less likeness than this, are not merged. Of labels with one meaning one in ten
# is below it, of others half (measured).
SEVERAL_EXAMPLES, LEAST_LIKENESS = 2, 0.02
# Labels are not merged if two examples of each are more alike by meaning than this, and those of both less. Of merges
# that a labeller wanted on four data sets, 2% of the right ones and 21% of the wrong ones are such (measured, MiniLM).
COHERENT = 0.46
JOINTS = re.compile(r"[\s\-/&]+")
# Shorter words lose another meaning with their last letter: "news".
SHORTEST_PLURAL = 5


def spelling(label: str) -> str:
    """A form that is equal for labels that differ in case, blanks, hyphens or a plural, and keeps other signs."""
    return "".join(_singular(word) for word in JOINTS.split(normalized(label).replace("'", "")))


def _singular(word: str) -> str:
    """An English plural without its ending; other words as they are."""
    if len(word) < SHORTEST_PLURAL or not word.isalpha() or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "ches", "shes", "zes")):
        return word[:-2]
    return word.removesuffix("s")


def spelled_alike(labels: Sequence[LabelEvidence]) -> dict[str, str]:
    """The mapping of labels to the canonical one of their spelling; labels that keep their name are not in it."""
    groups: defaultdict[str, list[LabelEvidence]] = defaultdict(list)
    for one in labels:
        groups[spelling(one.label) or one.label].append(one)
    return {
        one.label: kept.label
        for group in groups.values()
        for kept in [_canonical(group)]
        for one in group
        if one != kept and not one.given
    }


def _canonical(group: Sequence[LabelEvidence]) -> LabelEvidence:
    """A label that was given, else the label of most sessions; of several, the shortest."""
    return min(group, key=lambda one: (not one.given, -one.sessions, len(one.label), one.label))


def chunks(labels: Sequence[LabelEvidence], costs: Mapping[str, int], room: int, most: int) -> list[list[str]]:
    """Cut labels into chunks of one request each, so that labels that are alike meet in one of them.

    A label may be in several chunks. Labels that are alike to none are compared with any others.

    Args:
        labels: the labels to compare.
        costs: the tokens that each takes in a request.
        room: the tokens that a request has for labels.
        most: the labels that a reply has room for.
    """
    meetings = _Meetings({one.label: one.text for one in labels})
    made: list[list[str]] = []
    left = [one.label for one in labels]
    while left or meetings.pending:
        chunk = _Chunk(meetings, costs, room, most)
        chunk.fill(left)
        met = set(chunk.members)
        left = [label for label in left if label not in met]
        meetings.complete(met)
        made.append(chunk.members)
    return made or [[]]


class _Meetings:
    """Pairs of labels that have to meet, by label, with their likeness."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        likeness = Likeness(texts)
        self.of: dict[str, dict[str, float]] = {label: {} for label in texts}
        for label in texts:
            for other, alike in likeness.neighbours(label, NEIGHBOURS):
                self.of[label][other] = self.of[other][label] = alike
        self._order = [*texts]

    @property
    def pending(self) -> bool:
        return any(self.of.values())

    def busiest(self, left: Sequence[str], taken: Mapping[str, float]) -> str | None:
        """The label that has most to meet; one that is in no chunk yet comes before others."""
        waiting = [label for label in left if label not in taken]
        among = waiting or [label for label in self._order if self.of[label] and label not in taken]
        return max(among, key=lambda label: sum(self.of[label].values()), default=None)

    def complete(self, met: set[str]) -> None:
        for label in met:
            self.of[label] = {other: alike for other, alike in self.of[label].items() if other not in met}


class _Chunk:
    """Labels of one request. It grows by the label that has most to meet among its members."""

    def __init__(self, meetings: _Meetings, costs: Mapping[str, int], room: int, most: int) -> None:
        self.members: list[str] = []
        self._meetings, self._costs, self._room, self._most = meetings, costs, room, most
        self._gains: dict[str, float] = {}
        self._taken: dict[str, float] = {}

    def fill(self, left: Sequence[str]) -> None:
        while len(self.members) < self._most:
            best = max(self._gains, key=lambda label: self._gains[label], default=None)
            label = best if best is not None else self._meetings.busiest(left, self._taken)
            if label is None or (self.members and self._costs[label] > self._room):
                return
            self._add(label)

    def _add(self, label: str) -> None:
        self.members.append(label)
        self._taken[label] = self._gains.pop(label, 0.0)
        self._room -= self._costs[label]
        for other, alike in self._meetings.of[label].items():
            if other not in self._taken:
                self._gains[other] = self._gains.get(other, 0.0) + alike


class LabelMeaning(NamedTuple):
    """What a label means by the vectors of its examples, of which it has several.

    `mean`: of the vectors. `coherence`: how alike two of them are, at the mean.
    """

    mean: Sequence[float]
    coherence: float


NOT_COMPARED: Mapping[str, LabelMeaning] = {}


class Groups(NamedTuple):
    """The labels of one meaning, as a reply groups them; only groups of several.

    `problem`: why the reply cannot be used; empty if it can. `found`: how many labels the reply calls duplicates.
    """

    groups: tuple[tuple[LabelEvidence, ...], ...] = ()
    problem: str = ""
    found: int = 0


class Merges(NamedTuple):
    """What a reply merges: labels with their canonical label, only those that change.

    `problem` and `found`: as in `Groups`. `refused`: how many duplicates have examples that differ, or were given, and
    stay as they are.
    """

    mapping: dict[str, str]
    problem: str
    found: int
    refused: int = 0


def read_groups(reply: ChatReply, labels: Sequence[LabelEvidence]) -> Groups:
    """The groups of a reply. A label that it leaves out, or puts into several groups, is in none."""
    if reply.finish is not Finish.STOP:
        return Groups(problem="the reply was cut")
    try:
        groups = _groups(read_reply_json(reply.text)["groups"], {one.label for one in labels})
    except (ValueError, KeyError, TypeError, AttributeError):
        return Groups(problem="the reply does not follow the schema")
    known = {one.label: one for one in labels}
    counted = Counter(chain.from_iterable(groups))
    usable = [[known[label] for label in group if label in known and counted[label] == 1] for group in groups]
    several = tuple(tuple(group) for group in usable if len(group) > 1)
    found = sum(len(group) - 1 for group in several)
    problem = _problem(known, counted, usable)
    return Groups(problem=problem, found=found) if problem else Groups(several, "", found)


def merges_of(groups: Groups, likeness: Likeness, meaning: Mapping[str, LabelMeaning] = NOT_COMPARED) -> Merges:
    """What groups merge. The canonical label of each is the one of most sessions, however the reply names it.

    A label that was given is the canonical one, and several of them stay apart. So do labels whose examples differ: by
    meaning where both have a vector, else by words.
    """
    mapping: dict[str, str] = {}
    for group in groups.groups:
        kept = _canonical(group)
        mapping |= {
            one.label: kept.label
            for one in group
            if one != kept and not one.given and not differ(one, kept, likeness, meaning)
        }
    refused = 0 if groups.problem else groups.found - len(mapping)
    return Merges(mapping, groups.problem, groups.found, refused)


def _groups(groups: Sequence[Mapping[str, Any]], known: set[str]) -> list[list[str]]:
    """The members of each group, each once. A label that is in no group belongs to the group that it names."""
    members = [[*dict.fromkeys(map(normalized, group["members"]))] for group in groups]
    names = [normalized(group["canonical"]) for group in groups]
    listed = {*chain.from_iterable(members)}
    return [
        [name, *group] if name in known and name not in listed else group
        for name, group in zip(names, members, strict=True)
    ]


def _problem(known: Mapping[str, Any], counted: Counter[str], groups: Sequence[Sequence[LabelEvidence]]) -> str:
    missing = sum(label not in counted for label in known)
    invented = sum(label not in known for label in counted)
    repeated = sum(counted[label] > 1 for label in known)
    if missing + invented + repeated > TOLERATED_SHARE * len(known):
        return f"{missing} labels missing, {invented} invented, {repeated} in several groups"
    largest = max(map(len, groups), default=0)
    if len(known) >= SUSPICIOUS and largest > SUSPICIOUS_SHARE * len(known):
        return f"{largest} of {len(known)} labels in one group"
    return ""


def unlocked(mapping: Mapping[str, str], merged: Mapping[str, str]) -> dict[str, str]:
    """The merges without labels that another request has merged: those were not compared with each other."""
    locked = {*merged, *merged.values()}
    return {label: into for label, into in mapping.items() if label not in locked and into not in locked}


def differ(
    one: LabelEvidence,
    other: LabelEvidence,
    likeness: Likeness,
    meaning: Mapping[str, LabelMeaning] = NOT_COMPARED,
) -> bool:
    """Whether the examples of two labels ask for different things: then a reply may not merge them.

    Labels with several examples each differ if they have next to no word in common. Where their meaning is known, they
    differ if each is coherent and both together are not: what users say in a long chat is often alike to nothing.
    """
    several = min(len(one.examples), len(other.examples)) >= SEVERAL_EXAMPLES
    if one.label not in meaning or other.label not in meaning:
        return several and likeness.of(one.label, other.label) < LEAST_LIKENESS
    a, b = meaning[one.label], meaning[other.label]
    # The product of two means is the mean likeness of all pairs.
    return min(a.coherence, b.coherence) >= COHERENT > sum(map(mul, a.mean, b.mean))
