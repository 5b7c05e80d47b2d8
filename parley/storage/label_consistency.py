"""The sessions of a run by their labels, for the figures of its consistency."""

from sqlalchemy import ColumnElement, cast, func, select
from sqlalchemy.dialects.postgresql import JSONPATH
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Text, col

from parley.domain.auto_analyze.consistency import Consistency, LabelledCopies, consistency
from parley.storage import probes
from parley.storage.auto_analyze import CHAT_OF_SESSION, RUN_OF_SESSION
from parley.storage.tables import AutoRun, AutoSession, StoredChat

# What a transcript consists of: two sessions that differ in times alone are copies.
SPOKEN = ("$.messages[*].role", "$.messages[*].text")
FINAL = func.coalesce(col(AutoSession.canonical_intent), col(AutoSession.intent))


async def measure(tx: AsyncSession, workspace_id: str, job_key: str, sessions: int) -> Consistency:
    """The figures of a run's intents as they are now. `sessions`: of the run."""
    before = await intents(tx, workspace_id, job_key, first=True)
    after = await intents(tx, workspace_id, job_key, first=False)
    second = await probes.pairs(tx, workspace_id, job_key)
    return consistency(before, after, await copies(tx, workspace_id, job_key), sessions, second)


async def intents(tx: AsyncSession, workspace_id: str, job_key: str, *, first: bool) -> dict[str, int]:
    """How many sessions a reply gave each intent: the first ones, or those at the end."""
    label = col(AutoSession.intent) if first else FINAL
    query = select(label, func.count()).where(*_labelled(workspace_id, job_key)).group_by(label)
    return {str(row[0]): row[1] for row in (await tx.execute(query)).all()}


async def copies(tx: AsyncSession, workspace_id: str, job_key: str) -> list[LabelledCopies]:
    """The sessions with a transcript that another session of the run has too."""
    texts = [cast(func.jsonb_path_query_array(col(StoredChat.payload), cast(path, JSONPATH)), Text) for path in SPOKEN]
    grouped = (
        select(
            func.md5(texts[0] + texts[1]).label("spoken"),
            col(AutoSession.intent).label("first"),
            FINAL.label("final"),
        )
        .select_from(AutoSession)
        .join(AutoRun, RUN_OF_SESSION)
        .join(StoredChat, CHAT_OF_SESSION)
        .where(*_labelled(workspace_id, job_key))
        .subquery()
    )
    counted = select(grouped, func.count().over(partition_by=grouped.c.spoken).label("sessions")).subquery()
    query = (
        select(counted.c.spoken, counted.c.first, counted.c.final, func.count())
        .where(counted.c.sessions > 1)
        .group_by(counted.c.spoken, counted.c.first, counted.c.final)
        .order_by(counted.c.spoken, counted.c.first, counted.c.final)
    )
    return [LabelledCopies(*row) for row in (await tx.execute(query)).all()]


def _labelled(workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    return (
        col(AutoSession.workspace_id) == workspace_id,
        col(AutoSession.job_key) == job_key,
        col(AutoSession.intent).is_not(None),
        ~col(AutoSession.fallback),
        ~col(AutoSession.by_rule),
    )
