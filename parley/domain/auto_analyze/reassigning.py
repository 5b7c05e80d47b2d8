"""The second look at sessions: would another of the labels that are left be clearly better?

At first each session is looked at by itself, if its own label is in doubt by its words, and by its meaning where
vectors of texts can be computed. A session chooses among its own label and the labels that are most alike to what its
user said, of those that have several sessions. So a session of a rare kind keeps its own label, and never has to take
one that does not fit.

Then near copies are looked at: sessions with nearly the same words, unless they differ in a word of their labels'
names. A session that has the label of most of its near copies is not in doubt; another one gets their label unless a
reply says that it asks for something else.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from heapq import nlargest
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.labels import normalized
from parley.domain.auto_analyze.likeness import Likeness, Spelling
from parley.domain.reply_json import read_reply_json
from parley.domain.requests import ChatReply, Finish

# Labels with fewer sessions are not offered to others.
LEAST_SESSIONS = 2
CANDIDATES = 20
# By meaning the right label is among the nearest ones more often, so fewer are offered.
CANDIDATES_BY_MEANING = 10
# A session is not in doubt if it is more alike to its own label than to any other by this share of its likeness.
CLEAR_SHARE = 0.3
# Sessions with this likeness of what their users said first are near copies: they share half of their words, by weight.
NEAR_COPY_LIKENESS = 0.5
ITEMS: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[dict[str, Any]])


class Labelled(NamedTuple):
    """A session with its label. `said`: what its user said first."""

    ordinal: int
    said: str
    label: str


class Doubt(NamedTuple):
    """A session whose label is in doubt. `said`: what its user said first. `candidates`: other labels that it may get,
    the most alike first. `near_copy`: a session with nearly the same words and the label
    that most of those have."""

    said: str
    label: str
    candidates: tuple[str, ...]
    near_copy: Labelled | None = None


class Choices:
    """The labels of a run, from which its sessions choose.

    Args:
        labels: all labels.
        sessions: some sessions of each label, among which others find their near copies.
    """

    def __init__(self, labels: Sequence[LabelEvidence], sessions: Sequence[Labelled] = ()) -> None:
        self.labels = {one.label: one for one in labels if one.sessions >= LEAST_SESSIONS}
        self._likeness = Likeness({label: one.text for label, one in self.labels.items()})
        self._sizes = {one.label: one.sessions for one in labels}
        self._sessions = {str(one.ordinal): one for one in sessions}
        self._spelling = Spelling(one.said for one in sessions)
        self._spoken = Likeness({name: one.said for name, one in self._sessions.items()}, self._spelling.terms)

    def doubt(self, session: Labelled) -> Doubt | None:
        """The doubt about the label of a session by itself; None if there is none, or no other label to choose."""
        near = dict(self._likeness.nearest(session.said, CANDIDATES + 1))
        own = near.pop(session.label, 0.0)
        others = [*near][:CANDIDATES]
        if not others or near[others[0]] <= own * (1 - CLEAR_SHARE):
            return None
        return Doubt(session.said, session.label, tuple(others))

    def doubt_of_near_copy(self, session: Labelled) -> Doubt | None:
        """The doubt about the label of a session whose near copies have another one; None if there is none."""
        near_copies = self._near_copies(session)
        usual = self._usual([session, *near_copies])
        if usual == session.label:
            return None
        near_copy = next(one for one in near_copies if one.label == usual)
        near = [name for name, _ in self._likeness.nearest(session.said, CANDIDATES + 1)]
        others = [name for name in near if name not in (usual, session.label)]
        return Doubt(session.said, session.label, (usual, *others)[:CANDIDATES], near_copy)

    def _near_copies(self, session: Labelled) -> list[Labelled]:
        alike = (self._sessions[name] for name, _ in self._spoken.near_copies(session.said, NEAR_COPY_LIKENESS))
        return [one for one in alike if one.ordinal != session.ordinal and not self._differ(one, session)]

    def _differ(self, one: Labelled, other: Labelled) -> bool:
        """Whether only one of two sessions has a word of their labels' names: it distinguishes the labels."""
        if one.label == other.label:
            return False
        terms = self._spelling.terms
        only_one_has = {*terms(one.said)} ^ {*terms(other.said)}
        return not only_one_has.isdisjoint((*terms(one.label), *terms(other.label)))

    def _usual(self, sessions: Sequence[Labelled]) -> str:
        """The label that most of these sessions have; of several, the label of most sessions of the run."""
        counted = Counter(one.label for one in sessions)
        return min(counted, key=lambda label: (-counted[label], -self._sizes.get(label, 0), label))


def by_meaning(doubt: Doubt, likeness: Mapping[str, float]) -> Doubt | None:
    """The doubt with the candidates that are nearest by meaning; None if the own label of the session is nearest.

    `likeness`: how near each label is to what the user said. An own label that is not in it is in doubt. Others that
    are not in it have no vector: they stay candidates by words, and if the nearest by words is one, the doubt stays.
    """
    own = likeness.get(doubt.label, -1.0)
    labels = likeness.keys() - {doubt.label}
    others = nlargest(CANDIDATES_BY_MEANING, labels, key=lambda label: (likeness[label], label))
    by_words = [label for label in doubt.candidates if label not in likeness]
    words_decide = bool(by_words) and by_words[0] == doubt.candidates[0]
    if not words_decide and (not others or likeness[others[0]] < own):
        return None
    return doubt._replace(candidates=(*others, *by_words)[:CANDIDATES])


def parts(doubts: Mapping[int, Doubt], costs: Mapping[str, int], room: int, most: int) -> Iterator[dict[int, Doubt]]:
    """Cut doubts about sessions, by ordinal, into requests. A session has fewer candidates if all are too long.

    Args:
        doubts: the sessions to look at.
        costs: the tokens that the evidence of each label takes.
        room: the tokens that a request has for labels.
        most: the sessions that one request may have.
    """
    part: dict[int, Doubt] = {}
    named: dict[str, int] = {}
    for ordinal, doubt in doubts.items():
        fitting = _fitting(doubt, costs, room)
        shown = {label: costs[label] for label in (fitting.label, *fitting.candidates) if label in costs}
        if part and (len(part) >= most or sum((named | shown).values()) > room):
            yield part
            part, named = {}, {}
        part[ordinal] = fitting
        named |= shown
    if part:
        yield part


def _fitting(doubt: Doubt, costs: Mapping[str, int], room: int) -> Doubt:
    """The doubt with as many of its candidates as one request has room for; at least the nearest."""
    candidates = doubt.candidates
    while len(candidates) > 1 and sum(costs.get(label, 0) for label in (doubt.label, *candidates)) > room:
        candidates = candidates[: len(candidates) // 2]
    return doubt._replace(candidates=candidates)


class Decisions(NamedTuple):
    """The sessions that get another label, by id; and the problem of a reply that cannot be used."""

    better: dict[str, str]
    problem: str = ""


def read_decisions(reply: ChatReply, doubts: Mapping[str, Doubt]) -> Decisions:
    """Read what a reply decides.

    A session that it leaves out or answers twice changes nothing, and a label that is not a candidate of the session.
    """
    if reply.finish is not Finish.STOP:
        return Decisions({}, "the reply was cut")
    try:
        items = ITEMS.validate_python(read_reply_json(reply.text)["sessions"])
    except (ValueError, KeyError, TypeError):
        return Decisions({}, "the reply does not follow the schema")
    answers: dict[str, set[str]] = {}
    for item in items:
        answers.setdefault(str(item.get("id")), set()).add(normalized(str(item.get("label"))))
    better: dict[str, str] = {}
    for name, doubt in doubts.items():
        labels = answers.get(name, set())
        # A person may have named a label in another spelling.
        candidates = {normalized(label): label for label in doubt.candidates}
        if len(labels) == 1 and (label := candidates.get(min(labels))):
            better[name] = label
    return Decisions(better)
