"""Sessions and recordings, stored once under the hash of their content."""

import asyncio
import hashlib
import json
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import NotFound
from parley.domain.session import Session
from parley.storage.tables import Recording, StoredSession

# The steps of an analysis read the same session one after the other, and checking it takes 5 to 40 ms. What was read
# last is kept by its hash, unless it is long. It is given only where its row is there.
MOST_KEPT, MOST_KEPT_WORDS = 16, 3000
_READ: dict[str, Session] = {}


def content_hash(session: Session) -> str:
    canonical = json.dumps(session.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


async def save_session(tx: AsyncSession, workspace_id: str, session: Session) -> str:
    """Store a session once; returns its hash. Storing it again renews its retention."""
    sha256 = content_hash(session)
    row = StoredSession(
        workspace_id=workspace_id,
        session_id=session.session_id,
        sha256=sha256,
        user_id=session.user_id,
        payload=session.model_dump(mode="json"),
    )
    upsert = insert(StoredSession).values(**row.model_dump())
    identity = ["workspace_id", "session_id", "sha256"]
    await tx.execute(upsert.on_conflict_do_update(index_elements=identity, set_={"created_at": row.created_at}))
    return sha256


async def load_session(tx: AsyncSession, workspace_id: str, session_id: str, sha256: str) -> Session:
    """The session as it was stored.

    Raises:
        NotFound: the workspace has no such session.
    """
    row = await tx.get(StoredSession, (workspace_id, session_id, sha256))
    if row is None:
        raise NotFound(f"workspace {workspace_id!r} has no session {session_id!r} with content {sha256[:12]}")
    return _READ.get(sha256) or _read(sha256, row.payload)


def _read(sha256: str, payload: dict[str, Any]) -> Session:
    session = Session.model_validate(payload)
    if sum(1 + len(turn.words) for turn in session.turns) <= MOST_KEPT_WORDS:
        _READ[sha256] = session
        while len(_READ) > MOST_KEPT:
            _READ.pop(next(iter(_READ)))
    return session


async def save_recording(tx: AsyncSession, workspace_id: str, audio: bytes, seconds: float) -> str:
    """Store a recording once; returns its hash. Storing it again renews its retention."""
    sha256 = (await asyncio.to_thread(hashlib.sha256, audio)).hexdigest()
    row = Recording(workspace_id=workspace_id, sha256=sha256, seconds=Decimal(str(round(seconds, 3))), audio=audio)
    upsert = insert(Recording).values(**row.model_dump())
    identity = ["workspace_id", "sha256"]
    await tx.execute(upsert.on_conflict_do_update(index_elements=identity, set_={"created_at": row.created_at}))
    return sha256


async def load_recording(tx: AsyncSession, workspace_id: str, sha256: str) -> Recording:
    """The recording as it was stored.

    Raises:
        NotFound: the workspace has no such recording.
    """
    row = await tx.get(Recording, (workspace_id, sha256))
    if row is None:
        raise NotFound(f"workspace {workspace_id!r} has no recording {sha256[:12]}")
    return row


async def recording_seconds(tx: AsyncSession, workspace_id: str, sha256: str) -> float:
    """How long a recording is, without reading it.

    Raises:
        NotFound: the workspace has no such recording.
    """
    query = select(col(Recording.seconds)).where(
        col(Recording.workspace_id) == workspace_id, col(Recording.sha256) == sha256
    )
    seconds = (await tx.execute(query)).scalar_one_or_none()
    if seconds is None:
        raise NotFound(f"workspace {workspace_id!r} has no recording {sha256[:12]}")
    return float(seconds)


async def recording_part(tx: AsyncSession, workspace_id: str, sha256: str, start: int, count: int) -> tuple[bytes, int]:
    """At most `count` bytes of a recording from the byte `start`, and the size of the whole.

    Raises:
        NotFound: the workspace has no such recording.
    """
    query = select(func.substring(col(Recording.audio), start + 1, count), func.length(col(Recording.audio))).where(
        col(Recording.workspace_id) == workspace_id, col(Recording.sha256) == sha256
    )
    found = (await tx.execute(query)).first()
    if found is None:
        raise NotFound(f"workspace {workspace_id!r} has no recording {sha256[:12]}")
    return bytes(found[0]), int(found[1])
