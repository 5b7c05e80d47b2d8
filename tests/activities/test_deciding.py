"""The number of SQL statements in the free steps of `Generate`."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import event
from temporalio.testing import ActivityEnvironment

from activities.generate.deciding import GenerateDecisions
from activities.metrics import Metrics
from parley.domain.generate.contract import GenerateInput, Job, PrepareOutcome, Prompt
from parley.domain.requests import Message
from parley.settings import Settings
from parley.storage.database import Database
from tests.parts import candidates_of


async def test_prepare_takes_five_statements(database: Database, settings: Settings):
    """What the key did before, configuration with the energy account, caps, cache, breakers."""
    given = GenerateInput(
        workspace_id="acme", user_id="ann", prompt=Prompt(messages=(Message(role="user", content="hello"),))
    )
    job = Job(input=given, job_key="job", workflow_id="workflow", fingerprint="asked", started_at=datetime.now(UTC))
    decisions = GenerateDecisions(database, candidates_of(database, settings), settings.policy(), 100, Metrics())
    environment = ActivityEnvironment()
    first: PrepareOutcome = await environment.run(decisions.prepare, job)
    statements: list[str] = []

    def note(*given: Any) -> None:
        statements.append(given[2])

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    second: PrepareOutcome = await environment.run(decisions.prepare, job)
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)
    assert first.candidates == second.candidates != ()
    assert len(statements) == 5, statements
