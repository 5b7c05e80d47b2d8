"""The map from the labels of a run to their canonical labels, in versions that a person can change and take back.

Version 0 has the labels as they were found. Merging, the second look and each change of a person make a further one.
A version has a state: by kind, which label has which canonical one, and whether the second look counts. No state loses
a label: each says where every one of them is, and `undo` returns to the state before.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import NamedTuple

from pydantic import AwareDatetime, Field

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.labels import normalized
from parley.domain.auto_analyze.taxonomy import given_name
from parley.domain.auto_analyze.validation import MAX_LABEL_CHARACTERS
from parley.domain.errors import InvalidInput, NotFound
from parley.domain.model import Model, is_blank
from parley.domain.text import one_line

MAX_REASON_CHARACTERS = 500
CLOSE_NAMES = 3
NOT_BEFORE: Mapping[str, int] = {}


class MapAction(StrEnum):
    """What made a version.

    FOUND: the labels as they were found. MERGED: the run merged labels. SECOND_LOOK: the run gave sessions better
    intents. APPROVED: a review of the merges has ended. The others are changes of a person.
    """

    FOUND = "found"
    MERGED = "merged"
    APPROVED = "approved"
    SECOND_LOOK = "second look"
    MERGE = "merge"
    SPLIT = "split"
    RENAME = "rename"
    UNDO = "undo"


class MergedBy(StrEnum):
    """What merged a label: it is only written differently, a reply of a model, or a person."""

    SPELLING = "spelling"
    REPLY = "reply"
    PERSON = "person"


class Place(NamedTuple):
    """The canonical label of a label, and the version that gave it."""

    into: str
    version: int


class LabelMapVersion(Model):
    """A version of a run's label map.

    `parent`: the version on whose state it was made; of an undo, the version to which it returned; None for version 0.
    `kind`, `labels` and `into`: what a person changed; of a rename, `into` is the new name. `made_by`: `run`, or who.
    """

    version: int
    parent: int | None
    action: MapAction
    made_by: str
    reason: str
    kind: LabelKind | None
    labels: tuple[str, ...]
    into: str | None
    created_at: AwareDatetime


class MergedLabel(Model):
    """A label as it was found, that another canonical label has taken in.

    `sessions`: those that were given it. `definition` and `examples`: what the comparison of labels had.
    `first_round`: which round found it; 0 or less for the discovery. `version`: which version of the map merged it.
    `request_id`: the paid request of the reply that did, where a reply did.
    """

    label: str
    sessions: int
    definition: str
    examples: tuple[str, ...]
    first_round: int
    merged_by: MergedBy
    made_by: str
    reason: str
    version: int
    request_id: str | None = None
    merged_at: AwareDatetime


class CanonicalLabel(Model):
    """A canonical label: the sessions that have it, its evidence, and the labels that were merged into it."""

    kind: LabelKind
    label: str
    sessions: int
    definition: str = ""
    examples: tuple[str, ...] = ()
    merged: tuple[MergedLabel, ...] = ()


class LabelMapView(Model):
    """The labels of a run as they are now.

    `version`: of the map; None before labels are merged. `review_until`: while the run waits for a review of its
    merges, when it goes on without one; then `labels` are what its sessions would have.
    """

    version: int | None
    review_until: AwareDatetime | None = None
    labels: tuple[CanonicalLabel, ...]


class KindMap:
    """The labels of one kind: those that were found, and the places of those that are not their own canonical label.

    A place may also be that of a name that a label had for a while: sessions with it from the second look follow.
    """

    def __init__(self, found: Collection[str], places: Mapping[str, Place]) -> None:
        self._found, self.places = found, dict(places)

    def canonical(self, label: str) -> str:
        place = self.places.get(label)
        return place.into if place else label

    @property
    def members(self) -> dict[str, list[str]]:
        """The labels that were found, by their canonical label."""
        members: defaultdict[str, list[str]] = defaultdict(list)
        for label in self._found:
            members[self.canonical(label)].append(label)
        return dict(members)

    @property
    def names(self) -> dict[str, str]:
        """Every label and name with its canonical label."""
        known = dict.fromkeys((*self._found, *self.places, *(place.into for place in self.places.values())))
        return {label: self.canonical(label) for label in known}

    def merged(self, source: str, into: str, version: int) -> "KindMap":
        """With all that one canonical label has in another one.

        Raises:
            NotFound: one of them is not a canonical label.
            InvalidInput: both are the same.
        """
        source, into = self._find(source, self.members), self._find(into, self.members)
        if source == into:
            raise InvalidInput(f"{source!r} cannot be merged into itself")
        return self._moved(source, into, version)

    def split(self, canonical: str, out: Iterable[str]) -> "KindMap":
        """With labels taken out of their canonical label: each is its own again.

        Raises:
            NotFound: there is no such canonical label, or it does not have one of these labels.
            InvalidInput: its own name is to be taken out, or nothing would be left.
        """
        members = self.members
        canonical = self._find(canonical, members)
        labels = [self._find(label, members[canonical], of=canonical) for label in out]
        if canonical in labels:
            raise InvalidInput(f"{canonical!r} names the label: rename it, or split the others out")
        if not labels or len({*labels}) == len(members[canonical]):
            raise InvalidInput(f"{canonical!r} needs at least one label that stays, and one that is taken out")
        return KindMap(self._found, {label: place for label, place in self.places.items() if label not in labels})

    def renamed(self, old: str, new: str, version: int) -> "KindMap":
        """With another name for a canonical label.

        Raises:
            NotFound: there is no such canonical label.
            InvalidInput: the new name is empty, too long, or in use.
        """
        members = self.members
        old, new = self._find(old, members), checked_name(new)
        if new == old:
            raise InvalidInput(f"{new!r} is its name already")
        taken = next((name for name in members if name != old and normalized(name) == normalized(new)), None)
        if taken is not None:
            raise InvalidInput(f"{taken!r} is another label: merge them instead")
        if new in self.names and self.canonical(new) != old:
            raise InvalidInput(f"{new!r} was merged into {self.canonical(new)!r}: split it out, or choose another name")
        # What was merged before stays merged by what merged it.
        merged = {label: place.version for label, place in self.places.items() if place.into == old}
        return self._moved(old, new, version, merged)

    def _moved(self, source: str, into: str, version: int, before: Mapping[str, int] = NOT_BEFORE) -> "KindMap":
        """All that `source` has is moved to `into`, by a version, or by an earlier one where it is in `before`."""
        moved = [label for label, canonical in self.names.items() if canonical == source]
        places = self.places | {label: Place(into, before.get(label, version)) for label in moved}
        places.pop(into, None)
        return KindMap(self._found, places)

    @staticmethod
    def _find(label: str, among: Collection[str], *, of: str = "") -> str:
        """The label of that name, in whatever spelling it is given."""
        if label in among:
            return label
        alike = [one for one in among if normalized(one) == normalized(label)]
        if len(alike) == 1:
            return alike[0]
        close = get_close_matches(label, among, CLOSE_NAMES)
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
        where = f"{of!r} has no label" if of else "the run has no label"
        raise NotFound(f"{where} {one_line(label, MAX_LABEL_CHARACTERS)!r}{hint}")


class LabelMap:
    """The state of a version, by kind. `reassigned`: whether the second look at sessions counts."""

    def __init__(self, kinds: Mapping[LabelKind, KindMap], *, reassigned: bool) -> None:
        self.kinds, self.reassigned = dict(kinds), reassigned

    def with_kind(self, kind: LabelKind, changed: KindMap) -> "LabelMap":
        return LabelMap({**self.kinds, kind: changed}, reassigned=self.reassigned)

    @property
    def stored(self) -> dict[str, dict[str, list[str | int]]]:
        """The places as they are stored."""
        return {
            kind.value: {label: [*place] for label, place in one.places.items()} for kind, one in self.kinds.items()
        }


def read_map(
    found: Mapping[LabelKind, Sequence[str]], stored: Mapping[str, Mapping[str, Sequence[object]]], *, reassigned: bool
) -> LabelMap:
    """The state of a version from what is stored of it."""
    kinds: dict[LabelKind, KindMap] = {}
    for kind, labels in found.items():
        places = {label: Place(str(into), int(str(number))) for label, (into, number) in stored.get(kind, {}).items()}
        kinds[kind] = KindMap(dict.fromkeys(labels), places)
    return LabelMap(kinds, reassigned=reassigned)


def map_of(mappings: Mapping[LabelKind, Mapping[str, str]], version: int) -> LabelMap:
    """The state in which each label has the canonical label of these mappings, given by one version."""
    return LabelMap(
        {
            kind: KindMap(mapping, {one: Place(into, version) for one, into in mapping.items() if one != into})
            for kind, mapping in mappings.items()
        },
        reassigned=False,
    )


class LabelPair(Model):
    """A label and the canonical label that it is, or is to be, merged into."""

    kind: LabelKind = LabelKind.INTENT
    label: str = Field(max_length=500)
    into: str = Field(max_length=500)


def checked_name(name: str) -> str:
    """The name that a person gives a label, as one line. A later run may start from it.

    Raises:
        InvalidInput: it is empty, too long, or cannot be the label of a run.
    """
    line = one_line(name, MAX_LABEL_CHARACTERS + 1)
    if is_blank(line):
        raise InvalidInput("must not be blank", where="name")
    if len(line) > MAX_LABEL_CHARACTERS:
        raise InvalidInput(f"must have at most {MAX_LABEL_CHARACTERS} characters", where="name")
    try:
        given_name(line)
    except ValueError as error:
        raise InvalidInput(str(error), where="name") from None
    return line
