"""A person changes the labels of a run that has ended: versions, sessions, conflicts, and other workspaces."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import delete

from parley import AutoAnalyzeHandle, Backend, Client, InvalidInput, LabelKind, LabelPair, LabelsChanged, NotFound
from parley.domain.auto_analyze.contract import LabelKind as Kind
from parley.domain.auto_analyze.label_maps import CanonicalLabel, LabelMapView
from parley.storage import auto_analyze as runs
from parley.storage import label_maps, reassignments
from parley.storage.tables import AutoLabel, AutoLabelMap, AutoMerge, AutoRun, AutoSession, Dataset, StoredChat

JOB = "run"
HOSTILE = 'a, "b" & <img src=x onerror=alert(1)>, c\'s'
# What a reply gave each session, and what the second look gives it.
GIVEN = (
    ("billing", None),
    ("bill", None),
    ("bill", None),
    ("invoices", None),
    ("invoice", "refund"),
    ("refund", None),
    ("money back", None),
    ("parcel", None),
)
BETTER = {place: label for place, (_, label) in enumerate(GIVEN) if label}
# Written alike, and by the reply to a request.
MERGES = (
    ("invoices", "invoice", -1, None),
    ("invoice", "billing", 0, "r/1"),
    ("bill", "billing", 0, "r/1"),
    ("money back", "refund", 1, "r/2"),
)


async def fill(
    client: Client, backend: Backend, *, ended: bool = True, better: Mapping[int, str] = BETTER
) -> AutoAnalyzeHandle:
    """A run as its workflow leaves it, with a second look."""
    own = {"workspace_id": client.workspace_id}
    run: dict[str, Any] = own | {"job_key": JOB}
    chat: dict[str, Any] = own | {"dataset_id": "data"}
    async with client.database.transaction() as tx:
        tx.add(Dataset(**chat, name="chats.jsonl", sessions=len(GIVEN) + 1, tokens=90))
        tx.add(AutoRun(**run, workflow_id="workflow", dataset_id="data", user_id="ann", settings={}))
        for place, intent in enumerate([*(intent for intent, _ in GIVEN), "unclassified"]):
            known = {"session_id": f"s-{place}", "user_id": "ann", "containment": "selfService", "tokens": 10}
            tx.add(StoredChat(**chat, position=place, payload={}, **known))
            marks = {"fallback": intent == "unclassified", "intent_quote": f"about {intent}"}
            tx.add(AutoSession(**run, ordinal=place, position=place, intent=intent, summary="s", **marks))
        for number, label in enumerate(dict.fromkeys(intent for intent, _ in GIVEN)):
            evidence: dict[str, Any] = {"sessions": 1, "definition": f"of {label}", "examples": [f"say {label}"]}
            tx.add(AutoLabel(**run, kind="intent", label=label, first_round=number, **evidence))
        for label, canonical, level, request in MERGES:
            merge = {"label": label, "canonical": canonical, "level": level, "request_id": request}
            tx.add(AutoMerge(**run, kind="intent", **merge))
    scope = (client.workspace_id, JOB)
    async with client.database.transaction() as tx:
        mappings = {kind: await runs.canonical_labels(tx, *scope, kind, 1000) for kind in Kind}
        version = await label_maps.record_merges(tx, *scope, mappings)
        await label_maps.apply(tx, *scope, await label_maps.state_of(tx, version))
        await reassignments.store(tx, *scope, better)
        await reassignments.apply(tx, *scope)
        await label_maps.record_second_look(tx, *scope)
        if ended:
            await runs.end(tx, *scope, "completed", {})
    return AutoAnalyzeHandle(backend, client.workspace_id, "workflow", JOB)


@pytest.fixture
async def run(client: Client, backend: Backend) -> AutoAnalyzeHandle:
    return await fill(client, backend)


async def intents(client: Client) -> list[str | None]:
    """The intents of the sessions in their order, as they are exported."""
    exported = [one async for one in client.labelled_sessions(JOB)]
    assert [one.original_intent for one in exported] == [*(intent for intent, _ in GIVEN), "unclassified"]
    return [one.intent for one in exported]


def named(view: LabelMapView, label: str) -> CanonicalLabel:
    return next(one for one in view.labels if one.label == label)


MERGED = ["billing"] * 5 + ["refund"] * 2 + ["parcel", "unclassified"]
LOOKED_AT = ["billing"] * 4 + ["refund"] * 3 + ["parcel", "unclassified"]


async def test_labels_are_shown_with_what_was_merged_into_them_and_why(run: AutoAnalyzeHandle):
    view = await run.labels.show(LabelKind.INTENT)
    assert (view.version, view.review_until) == (2, None)
    assert [(one.label, one.sessions) for one in view.labels] == [
        ("billing", 4),
        ("refund", 3),
        ("parcel", 1),
        ("unclassified", 1),
    ]
    billing = named(view, "billing")
    assert (billing.definition, billing.examples[0]) == ("of billing", "say billing")
    why = {one.label: (one.merged_by.value, one.request_id, one.version) for one in billing.merged}
    assert why == {"bill": ("reply", "r/1", 1), "invoice": ("reply", "r/1", 1), "invoices": ("spelling", None, 1)}
    bill = next(one for one in billing.merged if one.label == "bill")
    assert (bill.sessions, bill.examples, bill.reason) == (
        2,
        ("say bill",),
        "a reply gives it the meaning of 'billing'",
    )
    assert (bill.made_by, bill.merged_at <= datetime.now(UTC)) == ("run", True)


async def test_each_change_is_a_version_that_sessions_have_and_undo_takes_back(run: AutoAnalyzeHandle, client: Client):
    assert await intents(client) == LOOKED_AT
    renamed = await run.labels.rename("refund", HOSTILE, reason="as the team says", made_by="ann")
    assert (renamed.version, renamed.parent, renamed.made_by) == (3, 2, "ann")
    assert await intents(client) == [HOSTILE if one == "refund" else one for one in LOOKED_AT]
    await run.labels.merge("parcel", HOSTILE)
    await run.labels.split("billing", ["bill", "invoices"], reason="not the same")
    assert await intents(client) == ["billing", "bill", "bill", "invoices"] + [HOSTILE] * 4 + ["unclassified"]
    taken_back = [await run.labels.undo() for _ in range(4)]
    assert [one.parent for one in taken_back] == [4, 3, 2, 1]
    assert await intents(client) == MERGED
    assert not any([one.reassigned_from async for one in client.labelled_sessions(JOB)])
    await run.labels.undo()
    assert await intents(client) == [*(intent for intent, _ in GIVEN), "unclassified"]
    with pytest.raises(InvalidInput, match="nothing to undo"):
        await run.labels.undo()
    history = await run.labels.history()
    words = ["found", "merged", "second look", "rename", "merge", "split", *["undo"] * 5]
    assert [one.action.value for one in history] == words
    assert (history[5].labels, history[5].into, history[5].reason) == (("bill", "invoices"), "billing", "not the same")
    await run.labels.merge("bill", "billing")
    assert (await intents(client))[:3] == ["billing"] * 3


async def test_a_person_is_named_as_what_merged_a_label(run: AutoAnalyzeHandle):
    await run.labels.merge("parcel", "refund", reason="one team", made_by="ann")
    merged = named(await run.labels.show(), "refund").merged
    parcel = next(one for one in merged if one.label == "parcel")
    assert (parcel.merged_by.value, parcel.made_by, parcel.reason, parcel.version) == ("person", "ann", "one team", 3)


async def test_a_change_of_labels_that_were_changed_since_is_refused(run: AutoAnalyzeHandle, client: Client):
    seen = (await run.labels.show()).version
    await run.labels.merge("parcel", "refund", version=seen)
    for change in (
        run.labels.merge("refund", "billing", version=seen),
        run.labels.split("billing", ["bill"], version=seen),
        run.labels.rename("billing", "bills", version=seen),
        run.labels.undo(version=seen),
        run.labels.reject([LabelPair(label="bill", into="billing")], version=seen),
    ):
        with pytest.raises(LabelsChanged, match="have version 3, not 2"):
            await change
    assert len(await run.labels.history()) == 4
    assert "bill" not in await intents(client)


async def test_of_concurrent_changes_of_one_version_one_is_made(run: AutoAnalyzeHandle):
    renames = [run.labels.rename("billing", f"name {number}", version=2) for number in range(6)]
    results = await asyncio.gather(*renames, return_exceptions=True)
    assert sum(isinstance(one, LabelsChanged) for one in results) == 5
    assert [one.version for one in await run.labels.history()] == [0, 1, 2, 3]


async def test_labels_of_a_run_that_goes_on_are_not_changed(
    client: Client, backend: Backend, monkeypatch: pytest.MonkeyPatch
):
    run = await fill(client, backend, ended=False)

    async def running(*_: object) -> str:
        return "running"

    monkeypatch.setattr("parley.client.label_maps.true_status", running)
    for change in (run.labels.merge("parcel", "refund"), run.labels.undo()):
        with pytest.raises(InvalidInput, match="not finished"):
            await change
    assert len(await run.labels.history()) == 3


async def test_labels_of_another_workspace_are_not_there(run: AutoAnalyzeHandle, backend: Backend):
    before = await run.labels.history()
    theirs = AutoAnalyzeHandle(backend, "another", run.id, run.job_key)
    for look in (
        theirs.labels.show(),
        theirs.labels.merge("parcel", "refund"),
        theirs.labels.undo(),
        theirs.labels.rename("parcel", "stolen"),
    ):
        with pytest.raises(NotFound):
            await look
    assert await theirs.labels.history() == []
    assert await run.labels.history() == before


async def test_a_run_from_before_versions_has_them_from_its_first_change(client: Client, backend: Backend):
    run = await fill(client, backend)
    async with client.database.transaction() as tx:
        await tx.execute(delete(AutoLabelMap))
    view = await run.labels.show(LabelKind.INTENT)
    assert (view.version, named(view, "billing").sessions) == (1, 4)
    assert {one.label for one in named(view, "refund").merged} == {"money back"}
    await run.labels.rename("billing", "bills")
    assert await intents(client) == ["bills" if one == "billing" else one for one in LOOKED_AT]
    assert [one.action.value for one in await run.labels.history()] == ["found", "merged", "rename"]


async def test_several_merges_are_rejected_in_one_version(run: AutoAnalyzeHandle, client: Client):
    pairs = [LabelPair(label=label, into=into) for label, into in (("bill", "billing"), ("money back", "refund"))]
    rejected = await run.labels.reject(pairs)
    assert rejected.labels == ("bill", "money back")
    assert await intents(client) == [
        *("billing", "bill", "bill", "billing", "refund", "refund", "money back", "parcel", "unclassified")
    ]
    with pytest.raises(InvalidInput, match="names no merge"):
        await run.labels.reject([])


async def test_a_session_that_came_back_to_its_label_is_split_out_with_it(client: Client, backend: Backend):
    """By itself it got another label; the second look at near copies gave it the one that merging had left."""
    run = await fill(client, backend, better={1: "billing", 4: "refund"})
    assert named(await run.labels.show(LabelKind.INTENT), "billing").sessions == 4
    counts = {one.label: one.sessions for one in named(await run.labels.show(), "billing").merged}
    assert counts == {"bill": 2, "invoice": 0, "invoices": 1}
    await run.labels.split("billing", ["bill"])
    assert (await intents(client))[:5] == ["billing", "bill", "bill", "billing", "refund"]
