"""What a run takes over from an earlier one, and the pairs of labels of two runs on one dataset."""

import pytest

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.taxonomy import GivenLabel
from parley.domain.auto_analyze.validation import fallback_labels, no_text_labels
from parley.domain.chat import Containment
from parley.domain.errors import NotFound
from parley.storage import auto_analyze as runs
from parley.storage import datasets, earlier_runs, taxonomies
from parley.storage.database import Database
from parley.storage.tables import AutoRun, Dataset
from tests.storage.test_auto_analyze import ACME, DATASET, Run, chat, labels

LATER = "later dataset"


async def first_run(database: Database) -> Run:
    """Session 0 and 1 have labels of replies, 2 a fallback, 3 no text, 4 no label."""
    run = await (await Run(database).import_(5)).begin([*range(5)])
    await run.store({0: labels("refund"), 1: labels("refunds")})
    await run.store({2: fallback_labels(Containment.DROP_OFF), 3: no_text_labels(Containment.AGENT)})
    await run.merge(0, {"refunds": "refund"})
    await run.apply()
    return run


async def save_later(database: Database) -> None:
    """The sessions of the first file and a new one; what was said in session 1 is more."""
    chats = [chat(at) for at in (5, 0, 1, 2, 3, 4)]
    chats[2] = chats[2].model_copy(update={"messages": (*chats[2].messages, *chat(9).messages)})
    async with database.transaction() as tx:
        await datasets.save_chats(tx, ACME, LATER, [(at, one, 10) for at, one in enumerate(chats)])
        tx.add(Dataset(workspace_id=ACME, dataset_id=LATER, name="later", sessions=6, tokens=60))


async def test_a_session_is_known_by_its_id_and_what_was_said(database: Database):
    run = await first_run(database)
    await save_later(database)
    async with database.transaction() as tx:
        known = await earlier_runs.labelled_positions(tx, ACME, LATER, [run.scope[1]])
        contents = await earlier_runs.labelled_contents(tx, ACME, [run.scope[1]])
    assert known == {1, 4}, "sessions 0 and 3: the others have changed, or no reply labelled them"
    assert contents == {(f"s-{at}", chat(at).transcript_hash) for at in (0, 1, 3)}


async def test_a_run_remembers_the_runs_before_it(database: Database):
    await first_run(database)
    await save_later(database)
    second = AutoRun(
        workspace_id=ACME,
        job_key="second",
        workflow_id="w",
        dataset_id=LATER,
        user_id="ann",
        settings={"since": "job"},
    )
    lost = second.model_copy(update={"job_key": "third", "settings": {"since": "purged"}})
    async with database.transaction() as tx:
        await runs.begin(tx, second, [0])
        await runs.begin(tx, lost, [0])
        assert await earlier_runs.lineage(tx, ACME, "second") == ["second", "job"]
        with pytest.raises(NotFound, match="purged"):
            await earlier_runs.lineage(tx, ACME, "third")


async def test_the_labels_of_a_run_are_those_that_sessions_have_and_those_that_were_given(database: Database):
    run = await first_run(database)
    given = [
        GivenLabel(label="parcel", definition="A parcel is late.", examples=("where is it",)),
        GivenLabel(label="refund", kind=LabelKind.TRANSFER_REASON),
    ]
    await run.call(taxonomies.give, given)
    found = await run.call(earlier_runs.final_labels)
    assert [(one.kind, one.label) for one in found] == [
        (LabelKind.INTENT, "parcel"),
        (LabelKind.INTENT, "refund"),
        (LabelKind.TRANSFER_REASON, "refund"),
    ]
    assert found[0] == given[0]
    assert found[1].definition == "As it was."
    assert await run.call(earlier_runs.sessions_of_labels, LabelKind.INTENT) == {"refund": 2}


async def test_two_runs_share_sessions_by_their_place(database: Database):
    first = await first_run(database)
    second = await Run(database, job="other").begin([4, 3, 2, 1, 0])
    await second.store({4: labels("refund"), 3: labels("parcel"), 2: labels("login")})
    async with database.transaction() as tx:
        keys = first.scope[1], second.scope[1]
        assert await earlier_runs.pairs_of_labels(tx, ACME, *keys) == {("refund", "refund"): 1, ("refund", "parcel"): 1}
        found = await earlier_runs.session_with(tx, ACME, *keys, ("refund", "parcel"))
        assert found is not None
        assert found.session_id == "s-1"
        assert await earlier_runs.session_with(tx, ACME, *keys, ("refund", "none")) is None


async def test_the_batches_of_a_run_are_known_where_they_begin_at_the_same_session(database: Database):
    run = await (await Run(database).import_(12)).begin([*range(12)])
    await run.call(runs.store_batches, 4, [3, 3, 2], 2)
    assert await run.call(earlier_runs.batch_sizes, 4) == [3, 3, 2]
    assert await run.call(earlier_runs.batch_sizes, 5) == []


async def test_copies_of_a_dataset_are_counted_without_their_originals(database: Database):
    run = Run(database)
    chats = [chat(at % 2).model_copy(update={"session_id": f"s-{at}"}) for at in range(5)]
    async with database.transaction() as tx:
        await datasets.save_chats(tx, ACME, DATASET, [(at, one, 10) for at, one in enumerate(chats)])
        assert await datasets.count_copies(tx, run.scope[0], DATASET) == 3
