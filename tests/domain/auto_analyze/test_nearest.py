"""Which labels a request for labels shows."""

import pytest

from parley.domain.auto_analyze.batching import evidence_room, kind_room
from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.nearest import NEAREST, NearestLabels
from parley.domain.capabilities import UNKNOWN_MODEL

INTENT, REASON, LOCATION = LabelKind
WIDE = "gpt-4o-mini"


def evidence(label: str, example: str) -> LabelEvidence:
    return LabelEvidence(label=label, definition="what it is", examples=(example,))


CARD, PIN = evidence("late card", "my card has not arrived"), evidence("new pin", "change the pin of my card")
KNOWN = {INTENT: ["late card", "new pin", "other"], REASON: ["angry"], LOCATION: []}
FEW = NearestLabels(KNOWN, [CARD, PIN])
MANY = [f"topic{at:04} question" for at in range(400)]


def many(*others: str) -> NearestLabels:
    labels = [*MANY, *others]
    shown = [evidence(label, f"tell me about {label.split()[0]}") for label in labels]
    return NearestLabels({INTENT: labels, REASON: [], LOCATION: []}, shown)


def test_the_nearest_labels_have_evidence_and_the_others_a_name():
    shown = FEW.fitting(["choose another pin"], WIDE)
    assert shown.evidence == (PIN,)
    assert shown.labels == KNOWN
    assert shown.left_out == 0


def test_the_nearest_label_of_each_session_comes_first():
    shown = FEW.fitting(["card that has not arrived", "change a pin"], WIDE)
    assert shown.evidence == (CARD, PIN)


def test_a_session_has_the_evidence_of_a_few_labels():
    assert len(many().fitting([" ".join(MANY[:10])], WIDE).evidence) == NEAREST


def test_the_first_requests_know_no_labels():
    shown = NearestLabels({kind: [] for kind in LabelKind}, []).fitting(["x"], WIDE)
    assert (shown.labels, shown.evidence, shown.left_out) == ({kind: [] for kind in LabelKind}, (), 0)


def test_where_not_all_labels_fit_the_nearest_are_shown_and_the_rest_is_counted():
    """The label that was found last is not cut because it was found last."""
    shown = many("lost parcel").fitting(["where is my lost parcel"], UNKNOWN_MODEL)
    labels = shown.labels[INTENT]
    assert labels[-1] == "lost parcel"
    assert labels[:-1] == MANY[: len(labels) - 1]
    assert shown.left_out == 401 - len(labels) > 0
    assert shown.tokens <= kind_room(UNKNOWN_MODEL)


def test_what_requests_have_in_common_does_not_depend_on_their_sessions():
    known = many("lost parcel", "new pin")
    shown = [known.fitting([said], UNKNOWN_MODEL) for said in ("where is my lost parcel", "a new pin")]
    [common] = {one.common[INTENT] for one in shown}
    assert 0 < common < len(shown[0].labels[INTENT])
    assert shown[0].labels[INTENT][:common] == shown[1].labels[INTENT][:common] == MANY[:common]
    assert shown[0].labels[INTENT] != shown[1].labels[INTENT]


def test_what_requests_have_in_common_changes_with_every_sixteenth_label():
    sizes = [
        NearestLabels({INTENT: MANY[:count], REASON: [], LOCATION: []}, []).fitting(["x"], WIDE).common[INTENT]
        for count in (15, 16, 31, 32)
    ]
    assert sizes == [0, 16, 16, 32]


@pytest.mark.parametrize("model", [WIDE, UNKNOWN_MODEL])
def test_evidence_takes_a_part_of_the_room_for_labels(model: str):
    said = [f"question about topic{at:04}" for at in range(50)]
    shown = many().fitting(said, model)
    assert len(shown.evidence) > 0
    assert sum(len(one.model_dump_json()) // 3 for one in shown.evidence) <= evidence_room(model)
