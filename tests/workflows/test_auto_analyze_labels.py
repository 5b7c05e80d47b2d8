"""Labelling runs that start from labels or an earlier run, have probes, or are repeated with another model."""

from pathlib import Path

import pytest
from sqlalchemy import select
from sqlmodel import col

from parley import Client, GivenLabel, InvalidInput, LabelKind, LabelTrend, Taxonomy
from parley.domain.auto_analyze.contract import Phase
from parley.storage.tables import AutoSession
from tests.parts import SimulatorAdmin
from tests.workflows.test_auto_analyze import chat, chats, sessions_of, start

INTENTS = ("billing dispute", "password reset", "order status", "cancel subscription")
ENDS = {LabelKind.TRANSFER_REASON: "needs a person", LabelKind.DROP_OFF_LOCATION: "after the answer"}


def given(*, closed: bool = False, ends: bool = False) -> Taxonomy:
    labels = [GivenLabel(label=label, definition=f"About {label}.") for label in INTENTS]
    labels += [GivenLabel(kind=kind, label=label) for kind, label in ENDS.items()] if ends else []
    return Taxonomy(labels=tuple(labels), closed=closed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.jsonl"


@pytest.mark.usefixtures("worker")
class TestGivenLabels:
    async def test_closed_labels_need_no_discovery_no_merging_and_no_second_look(
        self, client: Client, path: Path
    ) -> None:
        job = await start(client, path, chats(40), labels=given(closed=True, ends=True), probes=0)
        statistics = (await job.result()).statistics
        assert statistics is not None
        assert (statistics.labelled, statistics.fallbacks, statistics.discovery_sessions) == (40, 0, 0)
        assert statistics.tokens_by_phase.keys() == {Phase.PARALLEL}
        assert statistics.given_labels == len(INTENTS) + len(ENDS) + len(LabelKind)
        sessions = await sessions_of(client, job)
        assert {one.intent for one in sessions} <= {*INTENTS, "other"}
        assert {one.transfer_reason for one in sessions} <= {None, ENDS[LabelKind.TRANSFER_REASON], "other"}
        assert statistics.consistency is not None
        assert statistics.consistency.other == sum(one.intent == "other" for one in sessions) / 40
        assert await client.audit() == []

    async def test_open_labels_keep_their_names_and_new_ones_are_added(self, client: Client, path: Path) -> None:
        job = await start(client, path, chats(60), labels=given())
        statistics = (await job.result()).statistics
        assert statistics is not None
        intents = {one.intent or "" for one in await sessions_of(client, job)}
        assert intents & {*INTENTS}
        assert intents - {*INTENTS}
        for label in intents & {*INTENTS}:
            assert label in {one.label for one in await job.origins(LabelKind.INTENT, label)}
        assert statistics.given_labels == len(INTENTS)
        new = sum(one.labels for one in (await job.overview()).new_labels)
        assert new == sum(statistics.unique_labels.values()) - len(intents & {*INTENTS})


@pytest.mark.usefixtures("worker")
class TestEarlierRuns:
    async def test_only_new_sessions_are_labelled_from_the_labels_of_the_earlier_run(
        self, client: Client, path: Path
    ) -> None:
        first = await start(client, path, chats(40))
        before = await first.result()
        changed = [chat(0, "my parcel is lost, and I want my money back"), *chats(60)[1:]]
        second = await start(client, path, changed, since_analysis=first.id)
        statistics = (await second.result()).statistics
        assert statistics is not None
        assert (statistics.sessions, statistics.already_labelled) == (21, 39)
        sessions = [one.session_id for one in await sessions_of(client, second)]
        assert sessions == ["s-0000", *(f"s-{number:04}" for number in range(40, 60))]
        assert statistics.given_labels == len(before.labels)
        overview = await second.overview()
        assert overview.since is not None
        assert (overview.since.id, overview.since.sessions) == (first.id, 39)
        drift = await client.label_drift(first.id, second.id)
        assert drift.kinds == overview.since.drift
        assert all(one.change is not LabelTrend.NEW or one.earlier_sessions == 0 for one in drift.kinds[0].labels)
        third = await start(client, path, changed, since_analysis=second.job_key, run_name="again")
        again = (await third.result()).statistics
        assert again is not None
        assert (again.sessions, again.already_labelled) == (0, 60), "the first run is remembered through the second"
        assert await client.audit() == []


@pytest.mark.usefixtures("worker")
class TestProbes:
    async def test_the_labels_of_probes_are_paid_and_change_nothing(self, client: Client, path: Path) -> None:
        plain = await start(client, path, chats(60), probes=0, run_name="plain")
        without = (await plain.result()).statistics
        job = await start(client, path, chats(60), probes=12, run_name="probed")
        statistics = (await job.result()).statistics
        assert statistics is not None
        assert without is not None
        assert statistics.consistency is not None
        assert statistics.consistency.probes == 12
        assert statistics.consistency.probe_agreement is not None
        assert statistics.tokens_by_phase[Phase.PROBES] > 0
        assert Phase.PROBES not in without.tokens_by_phase
        assert statistics.cost_usd > without.cost_usd
        assert statistics.unique_labels == without.unique_labels
        assert [one.original_intent for one in await sessions_of(client, job)] == [
            one.original_intent for one in await sessions_of(client, plain)
        ]
        places = select(col(AutoSession.round), col(AutoSession.probe_round)).where(
            col(AutoSession.job_key) == job.job_key, col(AutoSession.probe_intent).is_not(None)
        )
        async with client.database.transaction() as tx:
            found = (await tx.execute(places)).all()
        assert len(found) == 12
        assert all(own != place for own, place in found)
        assert await client.audit() == []


@pytest.mark.usefixtures("worker")
class TestForks:
    async def test_a_fork_has_the_same_batches_and_another_model(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        first = await start(client, path, chats(60))
        await simulator.requests(at_least=1)
        with pytest.raises(InvalidInput, match="running: only a completed run can be repeated"):
            await client.fork_auto_analyze(first.id, model="gpt-4o")
        with pytest.raises(InvalidInput, match="running: only a completed run has labels to start from"):
            await start(client, path, chats(61), since_analysis=first.id)
        await simulator.gate(closed=False, provider="openai")
        original = (await first.result()).statistics
        second = await client.fork_auto_analyze(first.job_key, model="gpt-4o")
        assert second.id != first.id
        statistics = (await second.result()).statistics
        assert original is not None
        assert statistics is not None
        assert statistics.discovery_sessions == original.discovery_sessions
        assert [one.round for one in await sessions_of(client, second)] == [
            one.round for one in await sessions_of(client, first)
        ]
        found = await client.compare_runs(first.job_key, second.job_key)
        assert (found.sessions, found.second.models) == (60, ("gpt-4o",))
        assert found.cost_difference_usd == statistics.cost_usd - original.cost_usd > 0
        assert found.ari is not None
        assert found.same_label is not None
        assert found.same_name is not None
        assert 0 < found.same_name <= found.same_label <= 1
        assert len(found.examples) == min(len(found.moved), 5)
        assert (await second.overview()).compared == found
        assert (await first.overview()).compared is None
        with pytest.raises(InvalidInput, match="name another model, another provider or other instructions"):
            await client.fork_auto_analyze(first.job_key)
        assert await client.audit() == []

    async def test_a_fork_on_another_prompt_sends_its_instructions_with_each_request(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        first = await start(client, path, chats(40), provider="openai", instructions="Keep refunds apart.")
        await first.result()
        before = await simulator.billed()
        second = await client.fork_auto_analyze(first.id, instructions="Keep refunds apart. " * 20)
        statistics = (await second.result()).statistics
        assert statistics is not None
        assert (statistics.labelled, statistics.fallbacks) == (40, 0)
        asked = (await simulator.billed())[len(before) :]
        assert [one["model"] for one in asked] == [one["model"] for one in before]
        more = sum(one["input_tokens"] for one in asked) - sum(one["input_tokens"] for one in before)
        assert more > 50 * len(asked)
        found = await client.compare_runs(first.job_key, second.job_key)
        assert (found.first.instructions, found.second.tokens - found.first.tokens) == ("Keep refunds apart.", more)
        plain = await client.fork_auto_analyze(first.id, instructions="")
        assert plain.id != second.id
        await plain.result()
        assert (await client.compare_runs(first.job_key, plain.job_key)).second.instructions == ""
        with pytest.raises(InvalidInput, match="at most 1000 characters"):
            await client.fork_auto_analyze(first.id, instructions="x" * 1001)
        assert await client.audit() == []
