"""Which sessions are copies of each other, and how many have a label."""

from parley.domain.auto_analyze.consistency import LabelledCopies
from parley.domain.auto_analyze.validation import fallback_labels, no_text_labels
from parley.domain.chat import Containment
from parley.storage import datasets, label_consistency
from parley.storage.database import Database
from parley.storage.tables import Dataset
from tests.storage.test_auto_analyze import DATASET, Run, chat, labels


async def run_of(database: Database) -> Run:
    """Sessions 0 and 1 are copies with two labels, 2 and 3 are copies, of which one has no reply."""
    run = Run(database)
    texts = (0, 0, 2, 2, 4, 5)
    chats = [chat(text).model_copy(update={"session_id": f"s-{at}"}) for at, text in enumerate(texts)]
    async with database.transaction() as tx:
        await datasets.save_chats(tx, run.scope[0], DATASET, [(at, one, 100) for at, one in enumerate(chats)])
        tx.add(Dataset(workspace_id=run.scope[0], dataset_id=DATASET, name="x", sessions=6, tokens=600))
    await run.begin([*range(6)])
    await run.store({0: labels("refund"), 1: labels("refunds"), 2: labels("refund"), 4: labels("parcel")})
    await run.store({3: fallback_labels(Containment.AGENT), 5: no_text_labels(Containment.AGENT)})
    await run.merge(0, {"refunds": "refund"})
    await run.apply()
    return run


async def test_sessions_are_counted_by_their_first_and_final_labels(database: Database):
    run = await run_of(database)
    assert await run.call(label_consistency.intents, first=True) == {"refund": 2, "refunds": 1, "parcel": 1}
    assert await run.call(label_consistency.intents, first=False) == {"refund": 3, "parcel": 1}


async def test_copies_are_sessions_with_one_transcript_that_replies_labelled(database: Database):
    run = await run_of(database)
    found = await run.call(label_consistency.copies)
    group = found[0].group
    assert found == [LabelledCopies(group, "refund", "refund", 1), LabelledCopies(group, "refunds", "refund", 1)]
