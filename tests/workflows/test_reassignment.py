"""The second look at labels, on real parts: what it changes, what it costs, and what it must not do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col
from temporalio import workflow
from temporalio.client import Client as TemporalClient

from parley import AutoAnalyzeHandle, Client, Settings
from parley.domain.auto_analyze.contract import AutoAnalyzeResult, ExportedSession, LabelKind, Phase, Statistics
from parley.storage.database import Database
from parley.storage.tables import AutoSession, PaidRequest
from tests.parts import SimulatorAdmin, by_meaning, reset_to_start, running_workers
from tests.workflows.test_auto_analyze import chat, results_of, sessions_of, start
from tests.workflows.test_auto_analyze_control import held, settled
from workflows.auto_analyze import reassignment

# Each first session of a topic says it in words of its own.
SAID = (
    "Where is the parcel that I ordered",
    "My parcel has not arrived, where is it",
    "Reset my password, please",
    "I forgot my password and need to reset it",
    "The invoice is wrong, where is my parcel invoice",
    "My invoice is wrong",
)

# With a number each, they make the sessions differ in most of their words.
OWN_WORDS = ("case", "street", "contract", "branch", "machine", "customer", "region", "colleague")


def mixed(count: int) -> list[dict[str, Any]]:
    """Every third session has the words of another topic too. None is a near copy of another one."""
    return [chat(number, f"{_said(number)}, {_own_words(number)}") for number in range(count)]


def _own_words(number: int) -> str:
    return " ".join(f"{word}{number}" for word in OWN_WORDS)


def _said(number: int) -> str:
    first, other = SAID[number % len(SAID)], SAID[(number + 2 + number // 3) % len(SAID)]
    return first if number % 3 else f"{first}. {other}"


def statistics_of(report: Any) -> Statistics:
    assert report.statistics is not None
    return report.statistics


async def requests_of(client: Client, part: str) -> list[str]:
    async with client.database.transaction() as tx:
        query = select(col(PaidRequest.request_id)).where(col(PaidRequest.workspace_id) == client.workspace_id)
        return [name for name in (await tx.execute(query)).scalars() if f"/{part}/" in name]


async def run(client: Client, path: Path, sessions: Sequence[dict[str, Any]], **terms: Any) -> AutoAnalyzeHandle:
    job = await start(client, path, sessions, **terms)
    await job.result()
    return job


def changed(sessions: Sequence[ExportedSession]) -> list[ExportedSession]:
    return [session for session in sessions if session.reassigned_from]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.jsonl"


@pytest.mark.usefixtures("worker")
class TestSecondLook:
    async def test_what_is_changed_is_counted_and_exported(self, client: Client, path: Path) -> None:
        job = await run(client, path, mixed(40))
        report = await job.report()
        statistics = statistics_of(report)
        sessions = await sessions_of(client, job)
        assert statistics.reassigned == len(changed(sessions)) <= statistics.looked_at
        assert 0 < statistics.looked_at < 40
        assert statistics.tokens_by_phase[Phase.REASSIGNMENT] > 0
        assert sum(statistics.tokens_by_phase.values()) == sum(line.tokens_total for line in report.costs.lines)
        assert all(session.intent != session.reassigned_from for session in changed(sessions))
        labels = {session.intent for session in sessions}
        assert statistics.canonical_labels[LabelKind.INTENT] == len(labels)
        assert await client.audit() == []

    async def test_without_it_nothing_is_paid_for_it(self, client: Client, path: Path) -> None:
        job = await run(client, path, mixed(40), reassign=False)
        statistics = statistics_of(await job.report())
        assert (statistics.looked_at, statistics.reassigned) == (0, 0)
        assert await requests_of(client, "reassignment") == []
        assert Phase.REASSIGNMENT not in statistics.tokens_by_phase

    async def test_a_session_is_looked_at_once_and_only_with_labels_of_several_sessions(
        self, client: Client, path: Path
    ) -> None:
        job = await run(client, path, [*mixed(60), chat(60, "my alpaca is sick")])
        found = await sessions_of(client, job)
        assert found[60].reassigned_from is None
        names = await requests_of(client, "reassignment")
        assert len(names) == len({*names}) > 0

    async def test_a_reply_without_use_changes_nothing(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await run(client, path, mixed(40), run_name="first")
        looks = len(await requests_of(client, "reassignment"))
        sent = len(await simulator.requests())
        await simulator.fault("malformed", times=looks, after=sent - looks)
        job = await run(client, path, mixed(40), run_name="second")
        statistics = statistics_of(await job.report())
        assert statistics.reassigned == 0
        assert statistics.warnings[-1] == "some sessions keep their intent: the reply does not follow the schema"
        assert statistics.fallbacks == 0

    async def test_all_keep_their_labels_if_every_provider_refuses(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await run(client, path, mixed(40), run_name="first")
        looks = len(await requests_of(client, "reassignment"))
        sent = len(await simulator.requests())
        await simulator.fault("bad_request", provider="openai", times=None, after=sent - looks)
        await simulator.fault("bad_request", provider="anthropic", times=None)
        job = await run(client, path, mixed(40), run_name="second")
        statistics = statistics_of(await job.report())
        assert (statistics.reassigned, statistics.labelled) == (0, 40)
        assert statistics.warnings[-1].startswith("some sessions keep their intent: ")

    async def test_a_pause_holds_it_and_changes_no_label(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        whole = await run(client, path, mixed(120), run_name="whole", streams=1)
        looks = len(await requests_of(client, "reassignment"))
        sent = len(await simulator.requests())
        await simulator.fault("slow", provider="openai", times=None, after=sent - looks, hold=1)
        job = await start(client, path, mixed(120), run_name="paused", streams=1)
        await simulator.requests(at_least=2 * sent - looks + 1)
        await job.pause()
        assert (await held(job, "paused")).phase is Phase.REASSIGNMENT
        await settled(client, job)
        assert len(await simulator.requests()) < 2 * sent
        await simulator.reset()
        await job.resume()
        await job.result()
        assert await results_of(client, job) == await results_of(client, whole)

    async def test_a_run_that_is_asked_to_finish_applies_what_is_found(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await run(client, path, mixed(120), run_name="first", streams=1)
        looks = len(await requests_of(client, "reassignment"))
        sent = len(await simulator.requests())
        await simulator.fault("slow", provider="openai", times=None, after=sent - looks, hold=1)
        job = await start(client, path, mixed(120), run_name="second", streams=1)
        await simulator.requests(at_least=2 * sent - looks + 1)
        await job.finish()
        statistics = statistics_of(await job.result())
        assert len(await simulator.requests()) < 2 * sent
        assert (statistics.labelled, statistics.warnings) == (120, ())
        assert statistics.looked_at > 0
        assert statistics.reassigned == len(changed(await sessions_of(client, job)))

    async def test_a_run_that_is_to_finish_before_it_looks_at_nothing(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("slow", provider="openai", times=None, hold=0.3)
        job = await start(client, path, mixed(60))
        await simulator.requests(at_least=1)
        await job.finish()
        assert statistics_of(await job.result()).looked_at == 0
        assert await requests_of(client, "reassignment") == []

    async def test_the_next_segment_repeats_nothing(
        self, client: Client, path: Path, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        twins = [chat(number + 100, f"{_said(number)}, {_own_words(number)}") for number in range(0, 30, 3)]
        whole = statistics_of(await (await start(client, path, [*mixed(60), *twins], run_name="whole")).result())
        # Its prompt cache has what the prompts of the first run begin with.
        await simulator.reset()
        monkeypatch.setattr(reassignment, "history_is_long", lambda: workflow.info().continued_run_id is None)
        job = await start(client, path, [*mixed(60), *twins], run_name="segments")
        report = await job.result()
        segments = client.temporal.get_workflow_handle(job.id)
        assert (await segments.describe()).run_id != report.job_key
        done = {"tokens_by_phase", "cost_usd", "stream_utilisation", "warnings"}
        assert statistics_of(report).model_dump(exclude=done) == whole.model_dump(exclude=done)
        assert (await job.progress()).sessions_done == 70
        assert await client.audit() == []

    async def test_the_original_label_stays(self, client: Client, path: Path) -> None:
        job = await run(client, path, mixed(60))
        query = select(AutoSession).where(col(AutoSession.workspace_id) == client.workspace_id)
        async with client.database.transaction() as tx:
            rows = list((await tx.execute(query)).scalars())
        assert len(rows) == 60
        for row in rows:
            assert row.better_intent is None or row.canonical_intent == row.better_intent
        assert {row.intent for row in rows} == {session.original_intent for session in await sessions_of(client, job)}


# The model of vectors knows the words of each.
PLAIN = [chat(number, f"{_said(number)}, I am customer {number}") for number in range(60)]


async def test_fewer_sessions_are_looked_at_where_vectors_can_be_computed(
    client: Client, path: Path, temporal: TemporalClient, database: Database, settings: Settings
) -> None:
    async with running_workers(temporal, database, settings):
        words = statistics_of(await (await run(client, path, PLAIN, run_name="words")).report())
    async with running_workers(temporal, database, by_meaning(settings)):
        meaning = statistics_of(await (await run(client, path, PLAIN, run_name="meaning")).report())
    assert 0 < meaning.looked_at < words.looked_at
    assert meaning.labelled == words.labelled == 60
    assert await client.audit() == []


async def test_a_run_that_is_repeated_where_other_sessions_are_in_doubt_ends(
    client: Client, path: Path, temporal: TemporalClient, database: Database, settings: Settings
) -> None:
    """Workers with and without vectors ask about other sessions in a request of the same id: its reply is taken."""
    async with running_workers(temporal, database, settings):
        job = await run(client, path, PLAIN)
        before, asked = await results_of(client, job), await requests_of(client, "reassignment")
    async with running_workers(temporal, database, by_meaning(settings)):
        again = await (await reset_to_start(temporal, job.id, AutoAnalyzeResult)).result()
    assert again.status == "completed"
    assert await results_of(client, job) == before
    assert {*await requests_of(client, "reassignment")} == {*asked}
    assert await client.audit() == []


@pytest.mark.usefixtures("worker")
async def test_what_a_version_before_has_asked_otherwise_keeps_what_it_found(
    client: Client, path: Path, temporal: TemporalClient
) -> None:
    job = await run(client, path, mixed(60))
    before, asked = await results_of(client, job), await requests_of(client, "reassignment")
    async with client.database.transaction() as tx:
        looks = col(PaidRequest.request_id).in_(asked)
        await tx.execute(update(PaidRequest).where(looks).values(fingerprint="of its words"))
    again = statistics_of(await (await reset_to_start(temporal, job.id, AutoAnalyzeResult)).result())
    assert again.warnings[-1].startswith("some sessions keep their intent: ")
    assert await results_of(client, job) == before
