"""Limits of a labelling run: requests that are too long for a model, refused, or over the budget."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowFailureError

from activities.auto_analyze import evidence
from parley import AutoAnalyzeHandle, Backend, Client
from parley.client.backend import failure_of
from parley.domain.auto_analyze.batching import ComparisonRoom
from parley.domain.auto_analyze.contract import WORKFLOW, AutoAnalyzeInput, DiscoveryTerms, LabelKind, Statistics
from parley.domain.auto_analyze.merging import chunks
from parley.domain.errors import JobFailed
from parley.domain.queues import WORKFLOWS
from parley.settings import Settings
from parley.storage.database import Database
from simulator.config import Config
from tests.parts import SimulatorAdmin, running_simulator, running_workers
from tests.workflows.test_auto_analyze import chat, chats, sessions_of, start

FOUR = DiscoveryTerms(min_sessions=4, max_sessions=4)


def rant(number: int, words: int) -> dict[str, Any]:
    return chat(number, " ".join(f"my invoice {number} {at} is wrong" for at in range(words // 5)))


def statistics_of(report: Any) -> Statistics:
    assert report.statistics is not None
    return report.statistics


async def open_attempts(database: Database) -> int:
    """How many attempts are open."""
    async with database.transaction() as tx:
        return (await tx.execute(text("SELECT count(*) FROM attempts WHERE state = 'open'"))).scalar_one()


@asynccontextmanager
async def labelling_with(
    temporal: TemporalClient, database: Database, settings: Settings, **changes: Any
) -> AsyncIterator[Client]:
    """A client whose workers have other settings."""
    changed = settings.model_copy(update=changes)
    async with running_workers(temporal, database, changed):
        yield Backend(temporal, database, changed).client(f"workspace-{id(changed)}")


@pytest.fixture
async def narrow() -> AsyncIterator[SimulatorAdmin]:
    """A simulator whose models have a small context window."""
    async with running_simulator(Config(context_window=6_000)) as admin:
        yield admin


class TestTooLong:
    async def test_a_fallback_provider_with_a_small_window_gets_smaller_requests(
        self,
        path: Path,
        simulator: SimulatorAdmin,
        temporal: TemporalClient,
        database: Database,
        settings: Settings,
    ) -> None:
        """Claude is cheaper and has the larger window, but is down for the whole run; gpt-4 has 8,000 tokens."""
        await simulator.fault("server_error", provider="anthropic", times=None)
        sessions = [rant(number, 600) for number in range(16)] + [rant(16, 9_000)]
        async with labelling_with(temporal, database, settings, openai_model="gpt-4") as client:
            job = await start(client, path, sessions, sessions_per_stream=None, streams=2, discovery=FOUR)
            report = await job.result()
            statistics = statistics_of(report)
            assert (statistics.labelled, statistics.fallbacks, statistics.refused) == (17, 0, 0)
            served = [request for request in await simulator.requests() if request["provider"] == "openai"]
            assert max(request["input_tokens"] for request in served) < 8_000
            assert await client.audit() == []

    async def test_batches_are_sized_for_the_first_candidate(
        self,
        path: Path,
        simulator: SimulatorAdmin,
        temporal: TemporalClient,
        database: Database,
        settings: Settings,
    ) -> None:
        """A fallback provider with a small window does not make the batches smaller."""
        sessions = [rant(number, 600) for number in range(16)]
        async with labelling_with(temporal, database, settings, openai_model="gpt-4") as client:
            job = await start(client, path, sessions, sessions_per_stream=None, streams=1, discovery=FOUR)
            assert statistics_of(await job.result()).rounds == 1
            assert {request["provider"] for request in await simulator.requests()} == {"anthropic"}

    async def test_a_session_over_the_real_context_window_is_condensed(
        self, path: Path, temporal: TemporalClient, database: Database, settings: Settings, narrow: SimulatorAdmin
    ) -> None:
        async with labelling_with(temporal, database, settings, simulator_url=narrow.url) as client:
            job = await start(client, path, [*chats(7), rant(7, 9_000)], streams=1)
            statistics = statistics_of(await job.result())
            assert (statistics.labelled, statistics.fallbacks) == (8, 0)
            assert await client.audit() == []

    async def test_a_session_whose_summary_is_empty_gets_the_fallback_and_no_request_for_labels(
        self, path: Path, temporal: TemporalClient, database: Database, settings: Settings, narrow: SimulatorAdmin
    ) -> None:
        await narrow.fault("empty", times=None)
        async with labelling_with(temporal, database, settings, simulator_url=narrow.url) as client:
            job = await start(client, path, [rant(0, 9_000)], streams=1)
            statistics = statistics_of(await job.result())
            assert (statistics.labelled, statistics.fallbacks) == (1, 1)
            tried = (await client.attempts(job.job_key)).attempts
            paid = [one.step for one in tried if one.tokens_completion]
            assert len(paid) == sum("condense" in step for step in paid) > 1
            assert await client.audit() == []

    @pytest.mark.usefixtures("worker")
    async def test_sessions_too_long_for_every_provider_get_the_fallback(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("context_too_long", times=None)
        report = await (await start(client, path, chats(8), streams=2)).result()
        statistics = statistics_of(report)
        assert (statistics.labelled, statistics.fallbacks, statistics.refused) == (8, 8, 8)
        assert report.costs.confirmed_usd == 0

    @pytest.mark.usefixtures("worker")
    async def test_label_comparison_is_sized_for_a_smaller_window(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        plain = await (await start(client, path, chats(40), run_name="plain")).result()
        kinds = len(LabelKind)
        await simulator.fault("context_too_long", provider="openai", after=len(await simulator.requests()) - kinds)
        await simulator.fault("context_too_long", provider="anthropic")
        again = await (await start(client, path, chats(40), run_name="again")).result()
        assert len([request for request in await simulator.requests() if not request["billed"]]) == 1
        assert again.labels == plain.labels
        assert statistics_of(again).unmerged_chunks == 0


@pytest.mark.usefixtures("worker")
class TestRefused:
    @pytest.mark.parametrize(
        ("fault", "refusals", "lost"), [("bad_request", 1, 0), ("bad_request", 7, 4), ("content_filter", 7, 4)]
    )
    async def test_a_refused_batch_is_halved_down_to_single_sessions(
        self, fault: str, refusals: int, lost: int, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        for provider in ("openai", "anthropic"):
            after = 1 if provider == "openai" else 0
            await simulator.fault(fault, provider=provider, after=after, times=refusals)
        report = await (await start(client, path, chats(12), streams=1, discovery=FOUR)).result()
        statistics = statistics_of(report)
        assert (statistics.labelled, statistics.fallbacks, statistics.refused) == (12, lost, lost)
        assert len(statistics.warnings) == bool(lost)
        assert statistics.retries == (6 if lost else 2)
        assert await client.audit() == []

    async def test_a_session_that_one_provider_refuses_is_labelled_by_another(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("bad_request", provider="openai", times=3)
        statistics = statistics_of(await (await start(client, path, chats(8))).result())
        assert (statistics.fallbacks, statistics.refused) == (0, 0)

    async def test_a_run_fails_early_if_every_session_is_refused(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("bad_request", times=None)
        job = await start(client, path, chats(200), streams=1)
        with pytest.raises(JobFailed, match="every session is refused") as failed:
            await job.result()
        assert failed.value.reason == "BadRequest"
        statistics = statistics_of(await job.report())
        assert statistics.labelled < 60
        assert statistics.refused == statistics.fallbacks > 0

    @pytest.mark.parametrize("fault", ["spend_limit", "billing_inactive"])
    async def test_a_run_stops_at_an_accounts_limit_without_fallback_labels(
        self, fault: str, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault(fault, provider="openai", times=None, after=3)
        await simulator.fault(fault, provider="anthropic", times=None)
        job = await start(client, path, chats(40), streams=2, discovery=FOUR)
        with pytest.raises(JobFailed, match=r"(?i)billing") as failed:
            await job.result()
        assert failed.value.reason == "ProviderUnavailable"
        statistics = statistics_of(await job.report())
        assert (statistics.fallbacks, statistics.refused) == (0, 0)
        assert statistics.labelled > 0
        assert await client.audit() == []

    @pytest.mark.parametrize("fault", ["too_large_for_minute", "empty"])
    async def test_less_is_requested_where_a_request_is_too_large_or_its_reply_empty(
        self, fault: str, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        for provider in ("openai", "anthropic"):
            await simulator.fault(fault, provider=provider, after=1 if provider == "openai" else 0)
        statistics = statistics_of(await (await start(client, path, chats(12), streams=1, discovery=FOUR)).result())
        assert (statistics.labelled, statistics.fallbacks) == (12, 0)
        assert statistics.retries > 0
        assert await client.audit() == []

    async def test_labels_stay_unmerged_if_the_comparison_is_refused(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        await (await start(client, path, chats(40), run_name="plain")).result()
        labelled = len(await simulator.requests()) - len(LabelKind)
        await simulator.fault("bad_request", provider="openai", after=labelled)
        await simulator.fault("bad_request", provider="anthropic")
        statistics = statistics_of(await (await start(client, path, chats(40), run_name="again")).result())
        assert statistics.unmerged_chunks == 1
        assert statistics.fallbacks == 0


@pytest.mark.usefixtures("worker")
class TestMoney:
    async def test_a_batch_waits_for_reservations_of_concurrent_requests(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        """Eight concurrent requests would reserve more than the budget; sequential ones fit into it."""
        await simulator.fault("slow", provider="openai", times=None, after=2, hold=0.3)
        job = await start(client, path, chats(60), budget_usd="0.015")
        report = await job.result()
        statistics = statistics_of(report)
        assert (statistics.labelled, statistics.fallbacks, statistics.stream_failures) == (60, 0, 0)
        assert report.costs.confirmed_usd <= 0.015
        assert sum(statistics.tokens_by_phase.values()) == sum(line.tokens_total for line in report.costs.lines)
        assert await client.audit() == []


@pytest.mark.usefixtures("worker")
class TestEndings:
    async def counts_agree(self, client: Client, job: AutoAnalyzeHandle) -> Statistics:
        """The statistics of the run agree with the ledger and the sessions."""
        report = await job.report()
        statistics = statistics_of(report)
        labelled = [session for session in await sessions_of(client, job) if session.original_intent]
        assert statistics.labelled == len(labelled)
        assert sum(statistics.tokens_by_phase.values()) == sum(line.tokens_total for line in report.costs.lines)
        assert (await job.progress()).cost_usd == report.costs.confirmed_usd
        assert await client.audit() == []
        return statistics

    @pytest.mark.parametrize("requests", [2, 4, 9])
    async def test_a_cancelled_run_counts_paid_requests(
        self, requests: int, client: Client, path: Path, simulator: SimulatorAdmin, database: Database
    ) -> None:
        """In discovery, in the first round, and when some streams have reported and others have not."""
        await simulator.fault("slow", provider="openai", times=None, after=requests - 2, hold=0.5)
        job = await start(client, path, chats(200), streams=4)
        await simulator.requests(at_least=requests)
        await job.cancel()
        with pytest.raises(JobFailed, match="cancelled"):
            await job.result()
        assert await open_attempts(database) == 0
        assert 0 < (await self.counts_agree(client, job)).labelled < 200

    async def test_a_run_over_budget_counts_paid_requests(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        job = await start(client, path, chats(400), budget_usd="0.02", streams=4, wait_limit_seconds=1)
        with pytest.raises(JobFailed) as failed:
            await job.result()
        assert failed.value.reason == "BudgetExhausted"
        assert (await self.counts_agree(client, job)).rounds > 0

    async def test_a_run_without_its_dataset_fails(self, client: Client) -> None:
        asked = AutoAnalyzeInput(workspace_id=client.workspace_id, user_id="u", dataset_id="none")
        handle = await client.temporal.start_workflow(
            WORKFLOW, asked, id=f"none/{client.workspace_id}", task_queue=WORKFLOWS
        )
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert failure_of(failed.value).reason == "NotFound"

    async def test_sample_bounds_in_the_wrong_order_fail_the_run(self, client: Client) -> None:
        asked = {
            **{"workspace_id": client.workspace_id, "user_id": "u", "dataset_id": "none"},
            "discovery": {"min_sessions": 9, "max_sessions": 8},
        }
        handle = await client.temporal.start_workflow(
            WORKFLOW, asked, id=f"wrong/{client.workspace_id}", task_queue=WORKFLOWS
        )
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert "min_sessions (9) is above max_sessions (8)" in str(failure_of(failed.value))

    async def test_progress_shows_streams_that_wait_for_a_provider(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        for provider in ("openai", "anthropic"):
            after = 1 if provider == "openai" else 0
            await simulator.fault("server_error", provider=provider, times=None, after=after)
        job = await start(client, path, chats(40), streams=3, discovery=FOUR)
        async with asyncio.timeout(60):
            while True:
                progress = await job.progress()
                # A stream says that it waits before the run has looked at what it has taken.
                if sum(bool(stream.waiting and stream.sessions) for stream in progress.streams) == 3:
                    break
                await asyncio.sleep(0.1)
        assert [(stream.stream, stream.sessions, stream.done) for stream in progress.streams] == [
            (1, 4, 0),
            (2, 4, 0),
            (3, 4, 0),
        ]
        assert all("waiting for a provider" in stream.waiting for stream in progress.streams)
        parent = client.temporal.get_workflow_handle(job.id)
        shown = await parent.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        assert "of which 0 are done and 3 wait" in shown.current_details
        await job.cancel()
        with pytest.raises(JobFailed, match="cancelled"):
            await job.result()
        await self.counts_agree(client, job)


@pytest.mark.usefixtures("worker")
class TestConflicts:
    async def test_the_labels_of_a_level_are_cut_into_requests_once(
        self, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To cut thousands of labels takes seconds."""
        cut: list[list[list[str]]] = []

        def counted(*given: Any) -> list[list[str]]:
            cut.append(chunks(*given))
            return cut[-1]

        monkeypatch.setattr(evidence, "chunks", counted)
        monkeypatch.setattr(evidence, "comparison_room", lambda *_: ComparisonRoom(labels=3, tokens=100_000))
        job = await start(client, path, chats(60))
        statistics = statistics_of(await job.result())
        assert (statistics.labelled, statistics.unmerged_chunks) == (60, 0)
        assert sum(map(len, cut)) > len(cut)
        labels = [tuple(map(tuple, made)) for made in cut]
        assert len({*labels}) == len(labels)

    async def test_found_and_resolved_conflicts_are_counted_separately(
        self, client: Client, path: Path, simulator: SimulatorAdmin
    ) -> None:
        job = await start(client, path, chats(60), run_name="plain")
        plain = statistics_of(await job.result())
        renamed = {
            (session.original_intent, session.intent)
            for session in await sessions_of(client, job)
            if session.original_intent != session.intent
        }
        assert plain.canonical_mappings[LabelKind.INTENT] == len(renamed) > 0
        assert plain.conflicts_resolved == sum(plain.canonical_mappings.values()) == plain.conflicts_found
        await simulator.fault("one_group", times=None)
        cut = statistics_of(await (await start(client, path, chats(60), run_name="cut")).result())
        assert cut.unmerged_chunks > 0
        assert cut.canonical_mappings[LabelKind.INTENT] == 0
        assert cut.conflicts_resolved == sum(cut.canonical_mappings.values()) < plain.conflicts_resolved
        assert cut.conflicts_resolved < cut.conflicts_found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.jsonl"
