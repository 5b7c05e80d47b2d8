"""The cache of answers: found by the key of the whole prompt or by a similar question (table `llm_cache`).

`cost_usd` is what the original answer cost, and so what a hit saves.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Interval, Select, bindparam, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.generate import caching
from parley.domain.generate.contract import GenerateInput, Serving
from parley.domain.model import storable
from parley.domain.requests import ChatReply, ChatRequest, Provider
from parley.storage import database
from parley.storage.database import NOW
from parley.storage.driver import defer
from parley.storage.ledger import Settled
from parley.storage.rows import insert_of
from parley.storage.tables import CachedAnswer

Models = Sequence[tuple[Provider, str]]

# How many of a context's newest answers are compared: older ones are rarely requested again.
MOST_COMPARED = 100
PURGED_AT_ONCE = 1000


# One prompt may have answers of several models.
IDENTITY = ("workspace_id", "key", "provider", "model")
IDENTIFYING = tuple_(*(getattr(CachedAnswer, name) for name in IDENTITY))
NEW = insert_of(CachedAnswer).values(
    uses=0, last_used_at=None, created_at=NOW, expires_at=NOW + bindparam("time_to_live", type_=Interval)
)
STORE = NEW.on_conflict_do_update(
    index_elements=IDENTITY,
    set_={one.name: one for one in NEW.excluded if one.name not in IDENTITY},
    where=col(CachedAnswer.attempt_id) != NEW.excluded.attempt_id,
)


@dataclass(frozen=True)
class Hit:
    """A stored answer. `cost_usd`: its original cost. `expired`: it is past its time to live, and `find_stale`
    returned it."""

    key: str
    reply: ChatReply
    provider: Provider
    model: str
    simulated: bool
    attempt_id: UUID
    cost_usd: Decimal
    expired: bool


async def find(tx: AsyncSession, workspace_id: str, key: str, models: Models) -> Hit | None:
    """An answer to exactly this prompt, of the first of the models that has one."""
    query = _of(workspace_id, models).where(col(CachedAnswer.key) == key, col(CachedAnswer.expires_at) > NOW)
    found = (await tx.execute(query)).scalars().all()
    return _hit(min(found, key=lambda row: _rank(row, models))) if found else None


async def find_similar(
    tx: AsyncSession,
    workspace_id: str,
    user_id: str,
    action: str,
    context_sha256: str,
    question: str,
    models: Models,
) -> Hit | None:
    """An answer to the same question in other words, given to the same user in the same context.

    What counts as the same: `domain.generate.caching.same_question`.
    """
    # Longer questions are stored but never compared, so they are not loaded.
    query = (
        _of(workspace_id, models)
        .where(
            col(CachedAnswer.user_id) == user_id,
            col(CachedAnswer.action) == action,
            col(CachedAnswer.context_sha256) == context_sha256,
            col(CachedAnswer.expires_at) > NOW,
            func.char_length(col(CachedAnswer.question)) <= caching.LONGEST_QUESTION,
        )
        .order_by(col(CachedAnswer.created_at).desc())
        .limit(MOST_COMPARED)
    )
    rows = (await tx.execute(query)).scalars().all()
    found = [rows[place] for place in caching.find_same(question, [row.question for row in rows])]
    return _hit(min(found, key=lambda row: _rank(row, models))) if found else None


async def find_stale(
    tx: AsyncSession, workspace_id: str, key: str, models: Models, given_by: Collection[tuple[Provider, bool]]
) -> Hit | None:
    """The newest answer to exactly this prompt, expired or not, for use while no provider is available.

    `given_by`: the providers whose answers may be used, each with whether it is simulated.
    """
    query = _of(workspace_id, models).where(
        col(CachedAnswer.key) == key,
        tuple_(col(CachedAnswer.provider), col(CachedAnswer.simulated)).in_(
            [(provider.value, simulated) for provider, simulated in given_by]
        ),
    )
    newest = query.order_by(col(CachedAnswer.created_at).desc()).limit(1)
    row = (await tx.execute(newest.add_columns((col(CachedAnswer.expires_at) <= NOW).label("expired")))).first()
    return _hit(row[0], expired=row.expired) if row else None


async def store(
    tx: AsyncSession, given: GenerateInput, serving: Serving, request: ChatRequest, settled: Settled
) -> None:
    """Store a cacheable answer in place of an older one, with the transaction's next statement. Idempotent."""
    reply = settled.reply
    if not isinstance(reply, ChatReply) or not caching.is_cacheable(request, reply):
        return
    entry = {
        "workspace_id": given.workspace_id,
        "key": serving.cache_key,
        "provider": settled.provider.value,
        "model": settled.model,
        "simulated": settled.simulated,
        "action": given.action,
        "user_id": given.user_id,
        "context_sha256": caching.context_sha256(request),
        "question": caching.question(request),
        "attempt_id": settled.attempt_id,
        "reply": storable(reply.model_dump(mode="json")),
        "cost_usd": settled.cost_usd,
        "time_to_live": timedelta(seconds=serving.cache_seconds),
    }
    await defer(tx, STORE, entry)


async def used(tx: AsyncSession, workspace_id: str, hit: Hit) -> None:
    """Count a hit, unless another answer has replaced this one meanwhile."""
    hit_row = update(CachedAnswer).where(
        IDENTIFYING.in_([(workspace_id, hit.key, hit.provider.value, hit.model)]),
        col(CachedAnswer.attempt_id) == hit.attempt_id,
    )
    await tx.execute(hit_row.values(uses=col(CachedAnswer.uses) + 1, last_used_at=NOW))


async def purge(tx: AsyncSession, older_than: datetime, *, limit: int = PURGED_AT_ONCE) -> int:
    """Delete answers of any workspace that expired before `older_than`. Returns how many; fewer than `limit`: all."""
    return await database.purge(tx, CachedAnswer, col(CachedAnswer.expires_at), older_than, limit=limit)


def _of(workspace_id: str, models: Models) -> Select[CachedAnswer]:
    """A workspace's answers of these models."""
    wanted = [(provider.value, model) for provider, model in models]
    by_them = tuple_(col(CachedAnswer.provider), col(CachedAnswer.model)).in_(wanted)
    return select(CachedAnswer).where(col(CachedAnswer.workspace_id) == workspace_id, by_them)


def _rank(row: CachedAnswer, models: Models) -> int:
    return list(models).index((Provider(row.provider), row.model))


def _hit(row: CachedAnswer, *, expired: bool = False) -> Hit:
    return Hit(
        key=row.key,
        reply=ChatReply.model_validate(row.reply),
        provider=Provider(row.provider),
        model=row.model,
        simulated=row.simulated,
        attempt_id=row.attempt_id,
        cost_usd=row.cost_usd,
        expired=expired,
    )
