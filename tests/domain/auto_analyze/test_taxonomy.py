"""The labels that a run starts from, and how a closed kind keeps to them."""

from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from parley.domain.auto_analyze.contract import GIVEN_ROUND, PROBED_ROUND, LabelKind, LabelOrigin
from parley.domain.auto_analyze.evidence import LabelEvidence, combined
from parley.domain.auto_analyze.likeness import Likeness
from parley.domain.auto_analyze.merging import merges_of, read_groups, spelled_alike
from parley.domain.auto_analyze.sampling import coverage
from parley.domain.auto_analyze.taxonomy import Allowed, GivenLabel, Taxonomy, with_other, within
from parley.domain.auto_analyze.validation import judge
from parley.domain.chat import Containment
from tests.domain.auto_analyze.chats import grouped, reply

ALLOWED = Allowed({LabelKind.INTENT: ["lost parcel", "self-service", "other"]})


def of(*names: str, closed: bool = False) -> Taxonomy:
    return Taxonomy(labels=tuple(GivenLabel(label=name) for name in names), closed=closed)


def verdict(intent: str):
    item = {"id": "s1", "intent": intent, "transfer_reason": "Needs approval", "summary": "Something."}
    return judge(reply({"sessions": [item]}), {"s1": Containment.AGENT})


def test_labels_have_the_form_of_all_labels():
    assert GivenLabel(label="  Lost   Parcel. ").label == "lost parcel"


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("…", "must have a letter or a digit"),
        ("x" * 81, "has 81 characters, and a label has at most 80"),
        ("Unclassified", "marks sessions that no reply labelled"),
    ],
)
def test_a_label_that_cannot_be_one_is_refused(label: str, words: str):
    with pytest.raises(ValidationError, match=words):
        GivenLabel(label=label)


def test_a_label_is_given_once():
    with pytest.raises(ValidationError, match=r"labels\[1\] is labels\[0\] again: 'lost parcel'"):
        of("Lost parcel", "lost  parcel")
    same = (GivenLabel(label="refund"), GivenLabel(label="refund", kind=LabelKind.TRANSFER_REASON))
    assert len(Taxonomy(labels=same).labels) == 2


def test_the_same_labels_have_one_id():
    assert of("a", "b").id == of("A", "b", closed=True).id != of("b", "a").id


def test_only_the_kinds_of_a_closed_taxonomy_are_closed():
    assert of("a").closed_kinds == ()
    assert of("a", closed=True).closed_kinds == (LabelKind.INTENT,)


def test_each_closed_kind_has_other_once():
    labels = [GivenLabel(label="a"), GivenLabel(label="other")]
    added = with_other(labels, [LabelKind.INTENT, LabelKind.TRANSFER_REASON])
    assert [(one.kind, one.label) for one in added[2:]] == [(LabelKind.TRANSFER_REASON, "other")]


@pytest.mark.parametrize("written", ["Lost parcel", "lost-parcel", "lost parcels", "LostParcel"])
def test_another_spelling_is_the_given_label(written: str):
    found = within(verdict(written), ALLOWED, to_other=False)
    assert (found.labels["s1"].intent, found.outside, found.missing) == ("lost parcel", 0, ())


def test_a_label_outside_is_asked_again_and_then_becomes_other():
    again = within(verdict("billing"), ALLOWED, to_other=False)
    assert (again.labels, again.missing, again.outside) == ({}, ("s1",), 1)
    last = within(verdict("billing"), ALLOWED, to_other=True)
    assert (last.labels["s1"].intent, last.missing, last.outside) == ("other", (), 1)
    assert last.labels["s1"].transfer_reason == "needs approval", "an open kind takes any label"


def test_without_closed_kinds_nothing_changes():
    assert within(verdict("billing"), Allowed({}), to_other=True) == verdict("billing")


@pytest.mark.parametrize(
    ("first_round", "found"), [(GIVEN_ROUND, "given"), (-3, "discovery"), (2, "round 2"), (PROBED_ROUND, "probe")]
)
def test_the_origin_of_a_label_is_shown_in_words(first_round: int, found: str):
    assert LabelOrigin(label="a", first_round=first_round).found == found


def merged(*labels: LabelEvidence, group: Sequence[str]) -> dict[str, str]:
    groups = read_groups(grouped(group), labels)
    return merges_of(groups, Likeness({one.label: one.text for one in labels})).mapping


def test_a_given_label_is_neither_merged_nor_renamed():
    found, given, rare = (
        LabelEvidence(label="money back", sessions=90),
        LabelEvidence(label="refund", sessions=0, given=True),
        LabelEvidence(label="reimbursement", sessions=1, given=True),
    )
    assert merged(found, given, group=["money back", "refund"]) == {"money back": "refund"}
    assert merged(given, rare, group=["refund", "reimbursement"]) == {}
    several = merged(found, given, rare, group=["money back", "refund", "reimbursement"])
    assert several == {"money back": "reimbursement"}, "of given labels, that of most sessions"


def test_a_given_label_keeps_its_spelling():
    labels = [LabelEvidence(label="refunds", sessions=9), LabelEvidence(label="refund", given=True)]
    assert spelled_alike(labels) == {"refunds": "refund"}
    assert spelled_alike([one.model_copy(update={"given": True}) for one in labels]) == {}


def test_prompts_do_not_show_that_a_label_was_given():
    assert "given" not in LabelEvidence(label="refund", given=True).model_dump()
    assert combined("refund", [LabelEvidence(label="refund", given=True), LabelEvidence(label="refunds")]).given


def test_a_given_label_of_one_session_is_not_new():
    assert coverage(["refund", "parcel", "parcel", "login"]) == 0.5
    assert coverage(["refund", "parcel", "parcel", "login"], ["refund", "login"]) == 1.0
