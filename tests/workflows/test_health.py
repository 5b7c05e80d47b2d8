"""Health of the providers, with real workers and the simulator in place of the vendors."""

import socket
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowFailureError

from parley import Client
from parley.domain.errors import Unreachable
from parley.domain.health import WORKFLOW, ProviderHealth, State
from parley.domain.queues import WORKFLOWS
from parley.domain.requests import Provider
from parley.settings import Settings
from parley.storage import breaker, configuration
from parley.storage.breaker import BreakerTerms, Passes
from parley.storage.database import Database
from tests.parts import SimulatorAdmin, running_workers

KEY = "sk-0123456789-very-secret"


async def found(client: Client) -> dict[Provider, ProviderHealth]:
    return {one.provider: one for one in (await client.health()).providers}


@pytest.mark.usefixtures("worker")
class TestProviders:
    async def test_all_providers_are_up_and_nothing_is_paid(self, client: Client, simulator: SimulatorAdmin) -> None:
        report = await client.health()
        assert [one.provider for one in report.providers] == [one for one in Provider if one is not Provider.WHISPER]
        states = {one.provider: one for one in report.providers}
        for provider in (Provider.OPENAI, Provider.ANTHROPIC, Provider.ELEVENLABS):
            one = states[provider]
            assert (one.state, one.reason, one.simulated, one.breaker_seconds) == (State.UP, "", True, 0)
            assert one.milliseconds is not None
        assert states[Provider.LOCAL].state is State.NOT_CONFIGURED
        assert report.is_well
        assert await simulator.requests() == []
        assert (await client.costs()).lines == ()

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [("auth", "invalid x-api-key"), ("server_error", "500"), ("rate_limit", "429"), ("overloaded", "Overloaded")],
    )
    async def test_a_provider_that_is_down_has_a_reason(
        self, client: Client, simulator: SimulatorAdmin, fault: str, reason: str
    ) -> None:
        await simulator.fault(fault, provider="anthropic", times=None)
        report = await client.health()
        states = {one.provider: one for one in report.providers}
        assert states[Provider.ANTHROPIC].state is State.DOWN
        assert reason in states[Provider.ANTHROPIC].reason
        assert states[Provider.OPENAI].state is states[Provider.ELEVENLABS].state is State.UP
        assert not report.is_well

    async def test_an_open_breaker_is_reported_and_not_changed(self, client: Client) -> None:
        terms = BreakerTerms(failures=1, open_seconds=60, probe_seconds=60)
        async with client.database.transaction() as tx:
            await breaker.failed(tx, Provider.OPENAI, client.workspace_id, Passes(0, 0), terms)
        for _ in range(2):
            openai = (await found(client))[Provider.OPENAI]
            assert openai.state is State.UP
            assert 30 < openai.breaker_seconds <= 60

    async def test_the_keys_of_the_workspace_are_used(self, client: Client) -> None:
        """The fleet's way to a provider is not one for a workspace whose own key is missing."""
        async with client.database.transaction() as tx:
            own = {"openai": {"env": "ACME_OPENAI_API_KEY"}}
            await configuration.save(tx, client.workspace_id, "credentials", own, owner=configuration.WORKSPACE)
        states = await found(client)
        assert states[Provider.OPENAI].state is State.NOT_CONFIGURED
        assert states[Provider.ANTHROPIC].state is State.UP

    async def test_a_missing_input_fails_the_workflow(self, client: Client) -> None:
        with pytest.raises(WorkflowFailureError) as failed:
            await client.temporal.execute_workflow(WORKFLOW, id=f"empty-{uuid4().hex}", task_queue=WORKFLOWS)
        assert "needs a HealthInput" in str(failed.value.cause)


async def test_a_provider_without_a_worker_does_not_delay_the_others(
    temporal: TemporalClient, database: Database, settings: Settings, client: Client
) -> None:
    async with running_workers(temporal, database, settings, ("workflows", "anthropic", "elevenlabs")):
        report = await client.health()
    states = {one.provider: one.state for one in report.providers}
    assert states[Provider.OPENAI] is State.NO_WORKER
    assert states[Provider.ANTHROPIC] is State.UP
    assert not report.is_well


async def test_a_refused_connection_is_down_and_does_not_reveal_the_key(
    temporal: TemporalClient, database: Database, settings: Settings, client: Client
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    changes: dict[str, Any] = {"openai_api_key": SecretStr(KEY), "openai_base_url": address}
    async with running_workers(temporal, database, settings.model_copy(update=changes)):
        states = await found(client)
        assert states[Provider.OPENAI].state is State.DOWN
        assert "connection" in states[Provider.OPENAI].reason
        assert not states[Provider.OPENAI].simulated
        async for one in temporal.list_workflows(f"ParleyWorkspace = '{client.workspace_id}'"):
            history = await temporal.get_workflow_handle(one.id).fetch_history()
            assert KEY not in history.to_json()


async def test_without_workers_the_client_times_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parley.client.housekeeping.HEALTH_TIMEOUT", timedelta(seconds=1))
    with pytest.raises(Unreachable, match="is a worker up"):
        await client.health()
