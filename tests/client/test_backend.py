"""One backend serves many workspaces, and only its owner closes it."""

from dataclasses import replace

import pytest

from parley import Backend, Client, NotFound, Settings
from parley.domain.errors import ErrorKind, JobFailed, ParleyError, Unreachable
from parley.storage.database import Database
from starter.embedded import Addresses


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[Database]:
    """The databases that are closed, in order."""
    found: list[Database] = []
    close = Database.close

    async def record(database: Database) -> None:
        found.append(database)
        await close(database)

    monkeypatch.setattr(Database, "close", record)
    return found


async def test_clients_of_one_backend_see_their_own_workspace_only(backend: Backend) -> None:
    acme, globex = backend.client("acme"), backend.client("globex")
    assert await acme.grant_energy("ann", 5, key="welcome")
    assert (await acme.energy("ann")).available > 0
    with pytest.raises(NotFound):
        await globex.energy("ann")


async def test_closing_a_client_leaves_the_shared_backend_open(
    backend: Backend, database: Database, closed: list[Database]
) -> None:
    async with backend.client("acme") as acme:
        await acme.caps()
    assert closed == []
    await backend.close()
    assert closed == [database]


async def test_a_client_closes_what_its_own_connect_opened(
    settings: Settings, stack: Addresses, closed: list[Database]
) -> None:
    async with await Client.connect(
        workspace_id="acme", settings=settings, temporal_address=stack.temporal_address
    ) as client:
        await client.caps()
        assert closed == []
    assert closed == [client.database]


async def test_the_stack_is_reached_whatever_other_servers_are_configured(
    stack: Addresses, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(stack, database_url=database_url)
    monkeypatch.setattr("parley.client.backend.running_stack", lambda _: here)
    monkeypatch.setenv("TEMPORAL_TLS", "true")
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "prod")
    async with await Client.connect(settings=Settings(database_url=None)) as client:
        assert client.temporal.namespace == "default"
        assert [found async for found in client.temporal.list_workflows("WorkflowId = 'none'")] == []


async def test_a_failed_connect_leaves_no_database_open(settings: Settings, closed: list[Database]) -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        await Backend.connect(settings, temporal_address="127.0.0.1:1")
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("ProviderUnavailable", ErrorKind.UNAVAILABLE),
        ("BudgetExhausted", ErrorKind.BUDGET),
        ("InvalidInput", ErrorKind.INPUT),
        ("NotFound", ErrorKind.NOT_FOUND),
        ("IdempotencyConflict", ErrorKind.CONFLICT),
        ("Cancelled", ErrorKind.CANCELLED),
        ("ZeroDivisionError", ErrorKind.BUG),
    ],
)
def test_a_failed_job_has_the_kind_of_the_error_that_stopped_it(reason: str, kind: ErrorKind):
    failed = JobFailed(reason, "it failed")
    assert (failed.reason, failed.kind, failed.code) == (reason, kind, "JobFailed")
    assert ParleyError("an error without a class").kind is ErrorKind.BUG
