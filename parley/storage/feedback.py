"""What people thought of the answers they were given."""

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import NotFound
from parley.domain.reports import Feedback
from parley.storage.database import changed_one
from parley.storage.tables import Generation


async def rate(tx: AsyncSession, workspace_id: str, request_id: str, feedback: Feedback) -> None:
    """Keep what somebody thought of an answer; the last word stands.

    Raises:
        NotFound: the workspace has no such request.
    """
    of_the_request = (
        update(Generation)
        .where(col(Generation.workspace_id) == workspace_id, col(Generation.request_id) == request_id)
        .values(feedback=feedback.value)
    )
    if not await changed_one(tx, of_the_request):
        raise NotFound(f"workspace {workspace_id!r} has no request {request_id!r}")
