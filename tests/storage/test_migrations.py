"""The migrations create exactly the tables that the code declares, and two can run concurrently."""

import asyncio
from importlib import import_module
from uuid import uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.types.json import Jsonb
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from parley.domain.coaching.contract import Coaching
from parley.domain.coaching.rubric import DEFAULT_RUBRIC, built_in_rubrics
from parley.domain.coaching.rule_based import rule_based
from parley.domain.errors import InvalidInput
from parley.domain.habits import habits
from parley.domain.session_analysis import Analysis
from parley.domain.voice_metrics import as_measured
from parley.storage import analyses
from parley.storage.database import Database, engine
from parley.storage.migrate import configuration, has_vectors, migrate
from parley.storage.tables import SQLModel, StoredAnalysis
from tests.domain.sessions import session
from tests.parts import run_sql


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return compare_metadata(context, SQLModel.metadata)


async def test_the_migrated_schema_is_the_declared_one(database_url: str) -> None:
    opened = engine(SecretStr(database_url))
    async with opened.connect() as connection:
        assert await connection.run_sync(differences) == []
    await opened.dispose()


async def test_repeated_and_concurrent_migrations_change_nothing(database: Database, database_url: str) -> None:
    await asyncio.gather(*(migrate(SecretStr(database_url)) for _ in range(3)))
    await database.ping()


async def test_an_account_that_cannot_create_the_extension_is_refused_with_what_to_do(template: str) -> None:
    name = f"test_{uuid4().hex}"
    await run_sql(template, f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    await run_sql(template, f"CREATE DATABASE {name} OWNER {name}")
    url = make_url(template).set(database=name, username=name, password="secret")
    try:
        with pytest.raises(InvalidInput, match=r"DATABASE_URL.*pgvector.*superuser"):
            await migrate(SecretStr(url.render_as_string(hide_password=False)))
        # Once it is there, the account needs no more rights.
        as_superuser = make_url(template).set(database=name).render_as_string(hide_password=False)
        await run_sql(as_superuser, "CREATE EXTENSION vector")
        await migrate(SecretStr(url.render_as_string(hide_password=False)))
    finally:
        await run_sql(template, f"DROP DATABASE {name} WITH (FORCE)")
        await run_sql(template, f"DROP ROLE {name}")


async def test_results_from_before_the_acoustics_can_be_read(database: Database) -> None:
    kept = {"source": "elevenlabs", "pace": 90, "pace_wpm": 112.0, "clarity": None, "mean_confidence": None}
    guessed = {"rate_variation": 0.2, "tonality": 57, "energy": 80, "speaking_share": 0.8, "clarity_note": "no words"}
    fillers = {"listed": True, "count": 1, "per_minute": 2.0, "by_word": {"um": 1}, "examples": ["Um."]}
    result = {
        "session_id": "s-1",
        "user_id": "ann",
        "strategy": "hybrid",
        "strategy_reason": "r",
        "voice_metrics": {**kept, **guessed, "emotional_inflection": 5, "expressive_per_minute": 0.4},
        "habits": {
            "filler_words": fillers,
            "talk_time_ratio": 0.5,
            "pace_wpm": 112.0,
            "questions": 3,
            "longest_monologue_seconds": 9.0,
        },
        "coaching": rule_based(session(), habits(session()), built_in_rubrics()[DEFAULT_RUBRIC]).model_dump(
            mode="json"
        ),
        "provenance": [],
        "warnings": [],
    }
    names = {"workspace_id": "acme", "workflow_id": "w", "session_id": "s-1", "session_sha256": "0", "user_id": "ann"}
    async with database.transaction() as tx:
        tx.add(StoredAnalysis(**names, job_key="earlier", result=result))
        tx.add(StoredAnalysis(**names, job_key="running"))
    migration = import_module("parley.storage.migrations.versions.0005_voice_curves")
    async with database.transaction() as tx:
        await tx.execute(text(migration.NEW_SHAPE), {"reason": migration.REASON})
        row = await tx.get(StoredAnalysis, ("acme", "earlier"))
        assert row is not None
        analysis = Analysis.model_validate(row.result)
    assert (analysis.voice_metrics.pace_wpm, analysis.voice_metrics.tonality) == (112, None)
    assert analysis.voice_metrics.not_measured["clarity"] == migration.REASON
    assert set(analysis.habits.not_measured) == {"response_latency_seconds", "interruptions"}
    assert as_measured(analysis.voice_metrics)[2].measure == f"not measured: {migration.REASON}"


async def test_the_server_says_whether_it_has_the_extension(database: Database) -> None:
    assert await has_vectors(database)


async def test_analyses_from_before_the_rubrics_stay_readable(database_url: str, database: Database) -> None:
    """They have one rubric, no moments, and are not compared with later ones."""
    review = {"score": 70, "comment": "Well asked."}
    skills = dict.fromkeys(
        ("opening_technique", "questioning_skills", "objection_handling", "closing_technique"), review
    )
    texts = {"strengths": ["Clear."], "improvements": ["Ask more.", "Close."]}
    old = {"overall_score": 72, "processed": True, "fallback": False, **texts, **skills}
    opened = engine(SecretStr(database_url))
    async with opened.begin() as connection:
        await connection.run_sync(_to_before, "0006")
    await run_sql(
        database_url,
        "INSERT INTO session_analyses (workspace_id, job_key, workflow_id, session_id, session_sha256, user_id, status,"
        " coaching, result, reason, created_at)"
        " VALUES ('w', 'k', 'w', 's', 'x', 'u', 'completed', %s, %s, '', now())",
        Jsonb(old),
        Jsonb({"coaching": old, "strategy": "hybrid"}),
    )
    await opened.dispose()
    await migrate(SecretStr(database_url))
    async with database.transaction() as tx:
        row = await analyses.load(tx, "w", "k")
    assert row.result is not None
    assert (row.rubric, row.result["strategy"], row.result["coaching"]) == ("", "hybrid", row.coaching)
    coaching = Coaching.model_validate(row.coaching)
    assert [skill.score for skill in coaching.skills] == [70] * 4
    assert [point.text for point in coaching.improvements] == texts["improvements"]
    assert (coaching.overall_score, coaching.strengths[0].moment) == (72, None)


def _to_before(connection: Connection, revision: str) -> None:
    config = configuration(connection)
    command.downgrade(config, str(ScriptDirectory.from_config(config).get_revision(revision).down_revision))
