"""What is behind a label: sessions of this run and workspace only, and the merges that led to it."""

import json

from parley.domain.auto_analyze.contract import LabelKind, LabelOrigin, MergeStep
from parley.domain.chat import ChatSession
from parley.storage import label_explorer
from parley.storage.database import Database
from parley.storage.tables import AutoLabel, AutoMerge, AutoRun, AutoSession, Dataset, StoredChat
from tests.parts import SAMPLES

LINE = json.loads((SAMPLES / "chats" / "support.jsonl").read_text(encoding="utf-8").splitlines()[0])
CHAT = ChatSession.model_validate(LINE)
ORIGINALS = ["pay bill", "billing", "pay invoice", "billing"]


async def fill(database: Database, workspace_id: str) -> None:
    """A run of four sessions, whose labels were merged on two levels."""
    own = {"workspace_id": workspace_id}
    run, chat = own | {"job_key": "run"}, own | {"dataset_id": "data"}
    payload = CHAT.model_dump(mode="json")
    async with database.transaction() as tx:
        tx.add(Dataset(**chat, name="chats.jsonl", sessions=4, tokens=40))
        tx.add(AutoRun(**run, workflow_id="w", dataset_id="data", user_id="ann", settings={}))
        for place, original in enumerate(ORIGINALS):
            known = {"session_id": f"s-{place}", "user_id": "ann", "containment": "agent", "tokens": 10}
            tx.add(StoredChat(**chat, position=place, payload=payload | {"session_id": f"s-{place}"}, **known))
            labels = {"intent": original, "canonical_intent": "billing", "summary": f"{workspace_id} {place}"}
            tx.add(AutoSession(**run, ordinal=3 - place, position=place, **labels))
        for first_round, label in ((0, "billing"), (1, "pay bill"), (2, "pay invoice")):
            canonical = None if label == "billing" else "billing"
            tx.add(AutoLabel(**run, kind="intent", label=label, first_round=first_round, canonical=canonical))
        for level, label, canonical in (
            (1, "pay invoice", "pay bill"),
            (1, "billing", "billing"),
            (2, "pay bill", "billing"),
        ):
            tx.add(AutoMerge(**run, kind="intent", level=level, label=label, canonical=canonical))


async def test_examples_come_in_the_order_of_the_file_page_by_page(database: Database):
    for workspace_id in ("acme", "globex"):
        await fill(database, workspace_id)
    terms = {"kind": LabelKind.INTENT, "label": "billing", "limit": 3}
    async with database.reads() as tx:
        first = await label_explorer.examples(tx, "acme", "run", after=-1, **terms)
        rest = await label_explorer.examples(tx, "acme", "run", after=first[-1].position, **terms)
        other = await label_explorer.examples(tx, "acme", "another", after=-1, **terms)
    assert [one.summary for one in (*first, *rest)] == [f"acme {place}" for place in range(4)]
    assert [one.original for one in first] == ORIGINALS[:3]
    assert (rest[0].session.session_id, rest[0].session.messages) == ("s-3", CHAT.messages)
    assert other == []


async def test_a_label_has_its_origins_with_the_merges_of_each_level(database: Database):
    for workspace_id in ("acme", "globex"):
        await fill(database, workspace_id)
    async with database.reads() as tx:
        found = await label_explorer.origins(tx, "acme", "run", LabelKind.INTENT, "billing")
        assert await label_explorer.origins(tx, "acme", "run", LabelKind.TRANSFER_REASON, "billing") == []
    into_bill, into_billing = MergeStep(level=1, into="pay bill"), MergeStep(level=2, into="billing")
    assert found == [
        LabelOrigin(label="billing", first_round=0),
        LabelOrigin(label="pay bill", first_round=1, merges=(into_billing,)),
        LabelOrigin(label="pay invoice", first_round=2, merges=(into_bill, into_billing)),
    ]
