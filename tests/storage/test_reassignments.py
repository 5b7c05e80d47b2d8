"""The second look at sessions: each is in one batch, and keeps what it had."""

from decimal import Decimal

import pytest
from sqlalchemy import text

from activities.auto_analyze.label_maps import LabelMapActivities
from activities.boundary import without_boundary
from parley.domain.auto_analyze.contract import Aspect, AutoAnalyzeInput, Job
from parley.domain.auto_analyze.steps import ApplyConflicts
from parley.domain.auto_analyze.validation import no_text_labels
from parley.domain.chat import Containment
from parley.storage import auto_analyze as runs
from parley.storage import reassignments
from parley.storage.database import Database
from tests.storage.test_auto_analyze import DATASET, Run, labels


@pytest.fixture
async def run(database: Database) -> Run:
    """Sessions 0 to 4 are about a bill, a refund and a parcel; the last one has no text."""
    run = await (await Run(database).import_(12)).begin(list(range(12)))
    intents = ("refund", "bill", "parcel", "bill", "refund")
    await run.store({at: labels(intent) for at, intent in enumerate(intents)})
    await run.store({5: no_text_labels(Containment.SELF_SERVICE)})
    await run.apply()
    return run


async def test_sessions_of_one_intent_are_in_one_batch(run: Run):
    for _ in range(2):
        assert await run.call(reassignments.plan, 2) == range(3)
    batches = [await run.call(reassignments.batch, number) for number in range(4)]
    assert [[(one.ordinal, one.intent) for one in batch] for batch in batches] == [
        [(1, "bill"), (3, "bill")],
        [(0, "refund"), (2, "parcel")],
        [(4, "refund")],
        [],
    ]
    assert batches[0][0].messages[0]["text"] == "question 1"


async def test_the_sample_has_the_first_sessions_of_each_intent(run: Run):
    async def sampled(most: int) -> list[tuple[int, str]]:
        return [(one.ordinal, one.intent) for one in await run.call(reassignments.sample, most, Aspect.ALONE)]

    await run.call(reassignments.plan, 2)
    before = [(0, "refund"), (1, "bill"), (2, "parcel"), (3, "bill"), (4, "refund")]
    assert await sampled(1) == before[:3]
    assert await sampled(2) == before
    await run.call(reassignments.store, {0: "bill"})
    await run.call(reassignments.apply)
    assert await sampled(2) == before


async def test_near_copies_are_looked_at_with_the_labels_that_each_session_got_by_itself(run: Run):
    await run.call(reassignments.plan, 2)
    await run.call(reassignments.store, {0: "bill"})
    for _ in range(2):
        assert await run.call(reassignments.plan, 10, Aspect.NEAR_COPIES) == range(3, 4)
    await run.call(reassignments.store, {0: "parcel", 4: "bill"})
    seen = [(0, "bill"), (1, "bill"), (2, "parcel"), (3, "bill"), (4, "refund")]
    sampled = await run.call(reassignments.sample, 9, Aspect.NEAR_COPIES)
    for sessions in (await run.call(reassignments.batch, 3), sampled):
        assert [(one.ordinal, one.intent) for one in sessions] == seen
    assert [one.intent for one in await run.call(reassignments.batch, 1)] == ["refund", "parcel"]
    assert await run.call(reassignments.open_numbers, after=-1, limit=9) == [0, 1, 2]
    assert await run.call(reassignments.apply) == 2
    rows = await run.sessions()
    assert [row.canonical_intent for row in rows[:5]] == ["parcel", "bill", "parcel", "bill", "bill"]
    assert [row.merged_intent for row in rows[:5]] == ["refund", None, None, None, "refund"]


async def test_a_session_that_comes_back_to_its_label_has_not_changed(run: Run):
    await run.call(reassignments.plan, 2)
    await run.call(reassignments.store, {0: "bill"})
    await run.call(reassignments.plan, 2, Aspect.NEAR_COPIES)
    await run.call(reassignments.store, {0: "refund"})
    assert await run.call(reassignments.apply) == 0
    assert (await run.exported())[0].reassigned_from is None


async def test_a_batch_of_a_version_that_stored_no_labels_has_those_that_merging_left(run: Run):
    await run.call(reassignments.plan, 10)
    async with run.database.transaction() as tx:
        await tx.execute(text("UPDATE auto_reassignments SET labels = NULL"))
    await run.call(reassignments.store, {0: "bill"})
    await run.call(reassignments.apply)
    intents = ["refund", "bill", "parcel", "bill", "refund"]
    assert [one.intent for one in await run.call(reassignments.batch, 0)] == intents


async def test_a_better_label_is_applied_with_all_others(run: Run):
    await run.call(reassignments.plan, 10)
    for _ in range(2):
        await run.call(reassignments.store, {0: "bill", 2: "refund"})
    assert [row.canonical_intent for row in (await run.sessions())[:3]] == ["refund", "bill", "parcel"]
    for _ in range(2):
        assert await run.call(reassignments.apply) == 2
    rows = await run.sessions()
    assert [row.canonical_intent for row in rows[:5]] == ["bill", "bill", "refund", "bill", "refund"]
    assert [row.merged_intent for row in rows[:5]] == ["refund", None, "parcel", None, None]
    assert [row.intent for row in rows[:3]] == ["refund", "bill", "parcel"]
    assert [session.reassigned_from for session in (await run.exported())[:3]] == ["refund", None, "parcel"]
    assert await run.call(reassignments.intents_left) == 2


async def test_a_batch_shows_what_a_session_had_before_it_was_changed(run: Run):
    """So a step that is repeated after the run was reset requests the same."""
    await run.call(reassignments.plan, 10)
    before = await run.call(reassignments.batch, 0)
    await run.call(reassignments.store, {0: "bill"})
    await run.call(reassignments.apply)
    assert await run.call(reassignments.batch, 0) == before


async def test_copies_are_not_looked_at_and_get_what_their_originals_get(database: Database):
    run = await (await Run(database).import_(4)).begin(list(range(4)), {2: 0, 3: 1})
    await run.store({0: labels("refund"), 1: labels("bill")})
    await run.call(runs.copy_labels)
    await run.apply()
    assert await run.call(reassignments.plan, 10) == range(1)
    assert [one.ordinal for one in await run.call(reassignments.batch, 0)] == [0, 1]
    assert [one.ordinal for one in await run.call(reassignments.sample, 10, Aspect.ALONE)] == [0, 1]
    await run.call(reassignments.store, {0: "bill"})
    for _ in range(2):
        assert await run.call(reassignments.apply) == 2
    assert [row.canonical_intent for row in await run.sessions()] == ["bill"] * 4
    assert [row.merged_intent for row in await run.sessions()] == ["refund", None, "refund", None]


async def test_nothing_to_store_changes_nothing(run: Run):
    await run.call(reassignments.store, {})
    assert await run.call(reassignments.apply) == 0


async def test_a_run_that_merges_again_forgets_what_its_second_look_had_changed(run: Run):
    """It was reset, and may end before its second look, or find something else."""
    await run.call(reassignments.plan, 10)
    await run.call(reassignments.store, {0: "bill"})
    assert await run.call(reassignments.apply) == 1
    workspace_id, job_key = run.scope
    given = AutoAnalyzeInput(workspace_id=workspace_id, dataset_id=DATASET, user_id="ann", budget_usd=Decimal(1))
    again = ApplyConflicts(job=Job(input=given, job_key=job_key, workflow_id="workflow"))
    await without_boundary(LabelMapActivities.apply_conflicts)(LabelMapActivities(run.database), again)
    assert [(one.intent, one.reassigned_from) for one in (await run.exported())[:1]] == [("refund", None)]
    await run.call(reassignments.store, {0: "refund"})
    assert await run.call(reassignments.apply) == 0
    assert [(one.intent, one.reassigned_from) for one in (await run.exported())[:1]] == [("refund", None)]
