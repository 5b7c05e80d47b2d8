"""The evidence of labels comes from the sessions that have them."""

import pytest

from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.storage import auto_analyze as runs
from parley.storage import label_evidence
from parley.storage.database import Database
from tests.storage.test_auto_analyze import INTENT, REASON, Run, labels


@pytest.fixture
async def run(database: Database) -> Run:
    """Six labelled sessions of twelve, which are processed from the last to the first."""
    run = await (await Run(database).import_(12)).begin(list(reversed(range(12))))
    await run.store({at: labels("billing", "approval") for at in range(4)} | {4: labels("refund"), 5: labels("parcel")})
    return run


async def test_a_sample_has_the_first_sessions_of_each_label(run: Run):
    found = await run.call(label_evidence.sample, INTENT, 2)
    assert {label: one.sessions for label, one in found.items()} == {"billing": 4, "refund": 1, "parcel": 1}
    texts = [session.messages[0]["text"] for session in found["billing"].first]
    assert texts == ["question 11", "question 10"]
    assert found["billing"].first[0].summary == "As it was."


async def test_a_kind_has_labels_of_its_own(run: Run):
    assert {*await run.call(label_evidence.sample, REASON, 2)} == {"approval"}


async def test_stored_evidence_is_read_by_label(run: Run):
    billing = LabelEvidence(label="billing", sessions=4, definition="Why so much?", examples=("my 'bill'", "账单"))
    for _ in range(2):
        await run.call(label_evidence.store_evidence, INTENT, [billing, LabelEvidence(label="unknown", sessions=9)])
    found = await run.call(label_evidence.evidence, INTENT)
    assert found == [billing, LabelEvidence(label="parcel"), LabelEvidence(label="refund")]
    await run.call(label_evidence.store_evidence, INTENT, [])


async def test_the_merges_of_a_level_are_read_alone(run: Run):
    await run.merge(0, {"refund": "billing"})
    await run.merge(1, {"parcel": "billing"})
    assert await run.call(label_evidence.merged_on, INTENT, 0) == {"refund": "billing"}
    assert await run.call(label_evidence.merged_on, INTENT, 2) == {}
    assert await run.call(runs.canonical_labels, INTENT, 2) == dict.fromkeys(["billing", "parcel", "refund"], "billing")


@pytest.mark.parametrize("order", [(6, 9), (9, 6)])
async def test_the_first_session_of_a_label_is_stored_in_whatever_order_they_come(run: Run, order: tuple[int, int]):
    said = {6: "my 'card'", 9: "账单"}
    for ordinal in order:
        await run.store({ordinal: labels("theft", summary=f"Session {ordinal}.")}, 2, said=said)
    shown = await run.call(label_evidence.first_sessions, INTENT, after=1)
    assert shown == [LabelEvidence(label="theft", definition="Session 6.", examples=("my 'card'",))]


async def test_the_first_session_is_one_of_the_first_round(run: Run):
    """A stream that is ahead stores its labels before one that is behind."""
    await run.store({8: labels("theft")}, 3, said={8: "stolen"})
    await run.store({7: labels("theft")}, 2, said={7: "it was taken"})
    await run.store({9: labels("theft")}, 3, said={9: "gone"})
    assert await run.call(label_evidence.first_sessions, INTENT, up_to=2, after=1) == [
        LabelEvidence(label="theft", definition="As it was.", examples=("it was taken",))
    ]


async def test_a_label_without_a_text_of_its_first_session_has_its_summary(run: Run):
    shown = await run.call(label_evidence.first_sessions, INTENT)
    assert shown == [LabelEvidence(label=label, definition="As it was.") for label in ("billing", "parcel", "refund")]


async def test_labels_of_other_rounds_are_left_out(run: Run):
    await run.store({6: labels("theft")}, 3)
    known = await run.call(label_evidence.first_sessions, INTENT, up_to=2)
    assert [one.label for one in known] == ["billing", "parcel", "refund"]
    assert [one.label for one in await run.call(label_evidence.first_sessions, INTENT, after=2)] == ["theft"]
