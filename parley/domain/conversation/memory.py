"""What is remembered of a user, and the step that extracts it from a conversation's turns."""

from decimal import Decimal
from uuid import UUID

from pydantic import AwareDatetime

from parley.domain.model import Model
from parley.domain.routing import Candidate


class Memory(Model):
    """A fact about a user. `text`: one line for a prompt. `valid_until`: None while it is valid."""

    id: UUID
    subject: str
    predicate: str
    value: str
    text: str
    confidence: float
    importance: float
    conversation_id: str = ""
    turn_id: str = ""
    valid_from: AwareDatetime
    valid_until: AwareDatetime | None = None


class RememberStep(Model):
    """Extract facts from turns of a conversation, with one paid request under `job_key`."""

    workspace_id: str
    user_id: str
    conversation_id: str
    turn_ids: tuple[str, ...]
    action: str
    candidate: Candidate
    job_key: str
    workflow_id: str


class RememberOutcome(Model):
    """How many facts were stored, and what their extraction cost in USD."""

    memories: int = 0
    cost_usd: Decimal = Decimal(0)
