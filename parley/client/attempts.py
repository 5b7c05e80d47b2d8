"""`client.attempts()`: the attempts of a job at providers."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from parley.client.backend import Backend
from parley.domain.model import Model
from parley.storage import attempts


class AttemptReport(Model):
    """One try at a provider.

    step: what it was for, in the job's request ids. number: of the step's attempts.
    state: `open`, `settled`, `duplicate`, `lost` or `failed`. error, message: why it failed.
    cost_usd: what it cost, its upper bound where that is not `confirmed`; None where it was not billed.
    answered_by: the name that the reply gives.
    joint_id: under which the request was sent together with those of other jobs; None: alone, under `attempt_id`.
    """

    attempt_id: UUID
    step: str
    number: int
    provider: str
    model: str
    answered_by: str
    simulated: bool
    state: str
    error: str
    message: str
    tokens_prompt: int
    tokens_completion: int
    cost_usd: Decimal | None
    confirmed: bool
    upper_bound_usd: Decimal
    energy_charged: int
    joint_id: UUID | None = None
    started_at: datetime
    ended_at: datetime | None


class JobAttempts(Model):
    """The latest attempts of a job, the oldest first. `total`: how many it has."""

    attempts: tuple[AttemptReport, ...]
    total: int


async def list_attempts(backend: Backend, workspace_id: str, job_key: str, limit: int) -> JobAttempts:
    """The latest attempts of a job. `Client.attempts` documents the arguments."""
    async with backend.database.reads() as tx:
        rows = await attempts.of_job(tx, workspace_id, job_key, limit=limit)
    total = rows[0]["total"] if rows else 0
    return JobAttempts(attempts=tuple(_report(row, job_key) for row in reversed(rows)), total=total)


def _report(row: dict[str, object], job_key: str) -> AttemptReport:
    missing = {"confirmed": False, "answered_by": "", "energy_charged": 0, "tokens_prompt": 0, "tokens_completion": 0}
    known = {name: value for name, value in row.items() if value is not None or name not in missing}
    step = str(known.pop("request_id")).removeprefix(f"{job_key}/")
    known.pop("total")
    return AttemptReport.model_validate({**missing, **known, "step": step})
