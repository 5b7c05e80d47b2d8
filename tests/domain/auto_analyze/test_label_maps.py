"""Label maps: what a person changes, what is refused, and that no label is lost."""

import random  # noqa: TID251 - a test
import re

import pytest

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.label_maps import KindMap, LabelMap, Place, checked_name, map_of, read_map
from parley.domain.auto_analyze.validation import MAX_LABEL_CHARACTERS
from parley.domain.errors import InvalidInput, NotFound

FOUND = ("billing", "bill", "invoice", "refund", "money back", "parcel")
HOSTILE = 'a, "b" & <img src=x>, 1\'2'


def merged() -> KindMap:
    """What the run merged: bill and invoice into billing, money back into refund."""
    pairs = {"bill": "billing", "invoice": "billing", "money back": "refund"}
    return KindMap(FOUND, {label: Place(into, 1) for label, into in pairs.items()})


def groups(labels: KindMap) -> dict[str, list[str]]:
    return labels.members


def test_all_of_a_label_is_merged():
    labels = merged().merged("refund", "billing", 2)
    assert groups(labels) == {"billing": ["billing", "bill", "invoice", "refund", "money back"], "parcel": ["parcel"]}
    assert labels.places["money back"] == Place("billing", 2)
    assert labels.places["bill"] == Place("billing", 1)


def test_a_label_is_split_out_and_its_own_again():
    labels = merged().split("billing", ["bill"])
    assert groups(labels)["billing"] == ["billing", "invoice"]
    assert groups(labels)["bill"] == ["bill"]


def test_a_merge_is_taken_back_by_a_split():
    once = merged().merged("parcel", "billing", 2)
    assert groups(once.split("billing", ["parcel"])) == groups(merged())


def test_a_renamed_label_can_be_merged_split_and_named_back():
    labels = merged().renamed("billing", HOSTILE, 2)
    assert groups(labels)[HOSTILE] == ["billing", "bill", "invoice"]
    assert (labels.places["bill"], labels.places["billing"]) == (Place(HOSTILE, 1), Place(HOSTILE, 2))
    # Sessions that the second look gave a name follow it.
    assert labels.merged(HOSTILE, "refund", 3).canonical(HOSTILE) == "refund"
    assert groups(labels.split(HOSTILE, ["billing"])) == {
        HOSTILE: ["bill", "invoice"],
        "billing": ["billing"],
        "refund": ["refund", "money back"],
        "parcel": ["parcel"],
    }
    back = labels.renamed(HOSTILE, "billing", 3)
    assert (groups(back), back.canonical(HOSTILE)) == (groups(merged()), "billing")


def test_a_label_may_take_the_name_of_one_that_it_has_taken_in():
    labels = merged().renamed("billing", "bill", 2)
    assert groups(labels)["bill"] == ["billing", "bill", "invoice"]
    assert labels.places.keys() == {"billing", "invoice", "money back"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: one.merged("refund", "refund", 2), "cannot be merged into itself"),
        (lambda one: one.merged("bill", "refund", 2), "the run has no label 'bill'; did you mean 'billing'?"),
        (lambda one: one.merged("refund", "rocket", 2), "the run has no label 'rocket'"),
        (lambda one: one.split("billing", ["refund"]), "'billing' has no label 'refund'"),
        (lambda one: one.split("billing", ["billing"]), "'billing' names the label: rename it"),
        (lambda one: one.split("billing", []), "needs at least one"),
        (lambda one: one.split("parcel", ["parcel"]), "names the label"),
        (
            lambda one: one.renamed("billing", "costs", 2).split("costs", ["billing", "bill", "invoice"]),
            "needs at least one",
        ),
        (lambda one: one.renamed("billing", "Refund!", 2), "'refund' is another label: merge them instead"),
        (lambda one: one.renamed("refund", "bill", 2), "'bill' was merged into 'billing'"),
        (lambda one: one.renamed("refund", "refund", 2), "is its name already"),
        (lambda one: one.renamed("refund", " \u200e\n", 2), "must not be blank"),
        (lambda one: one.renamed("refund", "x" * (MAX_LABEL_CHARACTERS + 1), 2), "at most 80 characters"),
        # What no later run could start from.
        (lambda one: one.renamed("refund", "Unclassified", 2), "marks sessions that no reply labelled"),
        (lambda one: one.renamed("refund", "???", 2), "must have a letter or a digit"),
        (lambda one: one.renamed("refund", "\ufdfa" * 5, 2), "has 90 characters"),
        (
            lambda one: one.renamed("refund", "costs", 2).renamed("costs", "money", 3).renamed("parcel", "costs", 4),
            "'costs' was merged into 'money'",
        ),
    ],
)
def test_what_would_lose_or_confuse_labels_is_refused(change: object, words: str):
    with pytest.raises((InvalidInput, NotFound), match=re.escape(words)):
        change(merged())  # type: ignore[operator]


def test_a_label_is_found_in_any_spelling():
    assert groups(merged().merged("REFUND!", " Parcel", 2))["parcel"] == ["refund", "money back", "parcel"]


def test_a_name_is_one_line():
    assert checked_name(f" {HOSTILE}\n\tz ") == f"{HOSTILE} z"


def test_a_state_is_read_as_it_was_stored():
    state = map_of({LabelKind.INTENT: {"bill": "billing", "billing": "billing"}, LabelKind.TRANSFER_REASON: {}}, 3)
    found = {LabelKind.INTENT: ["bill", "billing"], LabelKind.TRANSFER_REASON: []}
    again = read_map(found, state.stored, reassigned=True)
    assert (again.stored, again.reassigned) == (state.stored, True)
    assert again.kinds[LabelKind.INTENT].places == {"bill": Place("billing", 3)}
    assert LabelMap({}, reassigned=False).stored == {}


@pytest.mark.parametrize("seed", range(40))
def test_no_label_is_lost_by_any_changes(seed: int):
    """After any changes each label is in exactly one group, and each name leads to a group that there is."""
    draw = random.Random(seed)
    labels = merged()
    for version in range(2, 40):
        names = [*labels.members]
        choice = draw.randrange(3)
        try:
            if choice == 0:
                labels = labels.merged(draw.choice(names), draw.choice(names), version)
            elif choice == 1:
                into = draw.choice(names)
                labels = labels.split(
                    into, draw.sample(labels.members[into], draw.randrange(len(labels.members[into])))
                )
            else:
                labels = labels.renamed(draw.choice(names), draw.choice([*FOUND, "x", "y", "z"]), version)
        except InvalidInput:
            continue
        assert sorted(label for members in labels.members.values() for label in members) == sorted(FOUND)
        assert {*labels.names.values()} == {*labels.members}
        assert all(place.into != label for label, place in labels.places.items())
