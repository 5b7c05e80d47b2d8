"""What the report of a run is made of: of this run and workspace only."""

from decimal import Decimal
from uuid import uuid4

from parley.domain.auto_analyze.overview import Flow, NewLabels, PhaseCost
from parley.domain.chat import Containment
from parley.storage import label_consistency, run_overview
from parley.storage.database import Database
from parley.storage.tables import AutoLabel, AutoRun, AutoSession, Dataset, StoredChat, UsageLog

# Text, containment, intent, canonical intent, drop-off location.
ROWS = (
    ("my invoice is wrong", "agent", "billing", None, None),
    ("my invoice is wrong", "agent", "invoices", "billing", None),
    ("my invoice is wrong", "dropOff", "other", None, "form"),
    ("where is it?", "selfService", "delivery", None, None),
    ("hello", "dropOff", None, None, None),
)
STEPS = (
    "discovery/sessions-0-4/ask-1/aa",
    "round-1/sessions-5-9/ask-1/bb",
    "round-22/x",
    "conflicts/intent/x",
    "condense/3/x",
)


async def fill(database: Database, workspace_id: str, job_key: str) -> None:
    run = {"workspace_id": workspace_id, "job_key": job_key}
    chat = {"workspace_id": workspace_id, "dataset_id": f"data of {job_key}"}
    async with database.transaction() as tx:
        tx.add(Dataset(**chat, name="chats.jsonl", sessions=5, tokens=40))
        tx.add(AutoRun(**run, workflow_id="w", dataset_id=chat["dataset_id"], user_id="ann", settings={}))
        for place, (text, containment, intent, canonical, location) in enumerate(ROWS):
            known = {"session_id": f"s-{place}", "user_id": "ann", "containment": containment}
            time = f"2026-03-02T10:00:0{place}Z"
            payload = known | {"bot_id": "", "messages": [{"role": "user", "text": text, "time": time}]}
            tx.add(StoredChat(**chat, position=place, payload=payload, tokens=10, **known))
            labels = {"intent": intent, "canonical_intent": canonical, "drop_off_location": location}
            labels |= {"intent_quote": text or None, "drop_off_location_quote": location and f"at the {location}"}
            tx.add(AutoSession(**run, ordinal=place, position=place, summary=workspace_id, **labels))
        for first_round, label in ((-1, "billing"), (0, "other"), (1, "invoices"), (3, "delivery")):
            tx.add(AutoLabel(**run, kind="intent", label=label, first_round=first_round))
        for place, step in enumerate(STEPS):
            tx.add(
                UsageLog(
                    **run,
                    user_id="ann",
                    action="auto_analyze",
                    provider="openai",
                    model="m",
                    simulated=True,
                    outcome="settled",
                    rates={},
                    tokens_total=100,
                    cost_usd=Decimal("0.01"),
                    confirmed=place != 2,
                    energy_charged=0,
                    attempt_id=uuid4(),
                    request_id=f"{job_key}/{step}",
                )
            )


async def test_a_run_at_a_glance(database: Database):
    for workspace_id, job_key in (("acme", "run"), ("acme", "another"), ("globex", "run")):
        await fill(database, workspace_id, job_key)
    async with database.reads() as tx:
        flows = await run_overview.flows(tx, "acme", "run")
        new = await run_overview.new_labels(tx, "acme", "run")
        phases = await run_overview.phase_costs(tx, "acme", "run")
        figures = await label_consistency.measure(tx, "acme", "run", 4)
    assert flows == [
        Flow(intent="billing", containment=Containment.AGENT, drop_off_location=None, sessions=2),
        Flow(intent="delivery", containment=Containment.SELF_SERVICE, drop_off_location=None, sessions=1),
        Flow(intent="other", containment=Containment.DROP_OFF, drop_off_location="form", sessions=1),
    ]
    assert new == [NewLabels(round=0, labels=2), NewLabels(round=1, labels=1), NewLabels(round=3, labels=1)]
    cent, nothing = Decimal("0.01"), Decimal(0)
    costs = {
        "discovery": (1, cent, nothing),
        "parallel streams": (2, cent, cent),
        "conflict resolution": (1, cent, nothing),
        "condense": (1, cent, nothing),
    }
    assert {one.phase: one for one in phases} == {
        name: PhaseCost(phase=name, attempts=count, tokens=100 * count, confirmed_usd=sure, uncertain_usd=unsure)
        for name, (count, sure, unsure) in costs.items()
    }
    assert (figures.copies, figures.agreement_before, figures.agreement) == (3, 0.0, 0.3333)


async def test_sessions_come_with_a_quote_page_by_page(database: Database):
    for workspace_id in ("acme", "globex"):
        await fill(database, workspace_id, "run")
    async with database.reads() as tx:
        first = await run_overview.quoted_sessions(tx, "acme", "run", after=-1, limit=3)
        rest = await run_overview.quoted_sessions(tx, "acme", "run", after=first[-1][0], limit=3)
        assert await run_overview.quoted_sessions(tx, "acme", "another", after=-1, limit=3) == []
    found = [one for _, one in (*first, *rest)]
    assert [(one.session_id, one.intent, one.quote) for one in found] == [
        (f"s-{place}", canonical or intent, text) for place, (text, _, intent, canonical, _) in enumerate(ROWS)
    ]
    assert {one.summary for one in found} == {"acme"}
    assert [one.ending_quote for one in found] == [(location and f"at the {location}") or "" for *_, location in ROWS]
