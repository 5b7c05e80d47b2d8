"""What the report of a labelling run draws: flows, new labels, costs by phase, and sessions with quotes."""

from sqlalchemy import ColumnElement, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.auto_analyze.contract import GIVEN_ROUND, PHASE_OF_STEP, PROBED_ROUND, LabelKind
from parley.domain.auto_analyze.overview import (
    Flow,
    NewLabels,
    PhaseCost,
    QuotedSession,
)
from parley.storage.auto_analyze import CHAT_OF_SESSION, RUN_OF_SESSION
from parley.storage.tables import USD, AutoLabel, AutoRun, AutoSession, StoredChat, UsageLog
from parley.storage.usage import CONFIRMED_USD, PROMPT_CACHE_SAVED, UNCERTAIN_USD, word_of_step

PHASES = {word: phase.value for word, phase in PHASE_OF_STEP.items()}


async def flows(tx: AsyncSession, workspace_id: str, job_key: str) -> list[Flow]:
    """How many sessions have each combination of intent, containment and drop-off location, the most frequent first."""
    names = ("intent", "containment", "drop_off_location")
    columns = (_label(LabelKind.INTENT), col(StoredChat.containment), _label(LabelKind.DROP_OFF_LOCATION))
    query = (
        select(*(column.label(name) for name, column in zip(names, columns, strict=True)), func.count())
        .select_from(AutoSession)
        .join(AutoRun, RUN_OF_SESSION)
        .join(StoredChat, CHAT_OF_SESSION)
        .where(*_of(workspace_id, job_key), _label(LabelKind.INTENT).is_not(None))
        .group_by(*columns)
        .order_by(func.count().desc(), *columns)
    )
    rows = (await tx.execute(query)).all()
    return [Flow(**dict(zip((*names, "sessions"), row, strict=True))) for row in rows]


async def new_labels(tx: AsyncSession, workspace_id: str, job_key: str) -> list[NewLabels]:
    """How many labels each round found first; the discovery is round 0."""
    place = func.greatest(AutoLabel.first_round, 0)
    query = (
        select(place, func.count())
        .where(
            col(AutoLabel.workspace_id) == workspace_id,
            col(AutoLabel.job_key) == job_key,
            col(AutoLabel.first_round) > GIVEN_ROUND,
            col(AutoLabel.first_round) < PROBED_ROUND,
        )
        .group_by(place)
        .order_by(place)
    )
    return [NewLabels(round=number, labels=count) for number, count in (await tx.execute(query)).all()]


async def phase_costs(tx: AsyncSession, workspace_id: str, job_key: str) -> list[PhaseCost]:
    """The paid attempts of a run by phase, in the order of their first one."""
    word = word_of_step()
    phase = case(PHASES, value=word, else_=word)
    query = (
        select(
            phase.label("phase"),
            func.count().label("attempts"),
            func.sum(UsageLog.tokens_total).label("tokens"),
            func.sum(UsageLog.tokens_cached).label("cached_tokens"),
            cast(func.coalesce(func.sum(PROMPT_CACHE_SAVED).filter(col(UsageLog.confirmed)), 0), USD).label(
                "prompt_cache_saved_usd"
            ),
            func.sum(CONFIRMED_USD).label("confirmed_usd"),
            func.sum(UNCERTAIN_USD).label("uncertain_usd"),
        )
        .where(col(UsageLog.workspace_id) == workspace_id, col(UsageLog.job_key) == job_key)
        .group_by(phase)
        .order_by(func.min(UsageLog.created_at))
    )
    return [PhaseCost(**row) for row in (await tx.execute(query)).mappings()]


async def quoted_sessions(
    tx: AsyncSession, workspace_id: str, job_key: str, *, after: int, limit: int
) -> list[tuple[int, QuotedSession]]:
    """Some sessions of a run with their labels and a quote, by their place in the file, after a position."""
    ending = func.coalesce(AutoSession.transfer_reason_quote, AutoSession.drop_off_location_quote, "")
    query = (
        select(
            col(AutoSession.position),
            *(col(getattr(StoredChat, name)) for name in ("session_id", "user_id", "containment")),
            *(_label(kind).label(kind.value) for kind in LabelKind),
            func.coalesce(AutoSession.summary, "").label("summary"),
            func.coalesce(AutoSession.intent_quote, "").label("quote"),
            ending.label("ending_quote"),
            *(col(getattr(AutoSession, name)) for name in ("fallback", "by_rule")),
        )
        .join(AutoRun, RUN_OF_SESSION)
        .join(StoredChat, CHAT_OF_SESSION)
        .where(*_of(workspace_id, job_key), col(AutoSession.position) > after)
        .order_by(col(AutoSession.position))
        .limit(limit)
    )
    rows = [dict(row) for row in (await tx.execute(query)).mappings()]
    return [(row.pop("position"), QuotedSession(**row)) for row in rows]


def _label(kind: LabelKind) -> ColumnElement[str]:
    return func.coalesce(col(getattr(AutoSession, f"canonical_{kind.value}")), col(getattr(AutoSession, kind.value)))


def _of(workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    return col(AutoSession.workspace_id) == workspace_id, col(AutoSession.job_key) == job_key
