"""Two labelling runs: the drift of their labels, a run repeated with another model or prompt, and what differs."""

from __future__ import annotations

import hashlib
import re
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from parley.client.auto_analyze import AutoAnalyzeHandle, drift_of, start_run
from parley.client.backend import Backend
from parley.client.jobs import check_model, provider_of
from parley.client.reading import first_problem
from parley.client.run_comparison import comparison_of
from parley.domain.auto_analyze.comparison import RunComparison
from parley.domain.auto_analyze.contract import AutoAnalyzeInput
from parley.domain.auto_analyze.drift import LabelDrift
from parley.domain.errors import InvalidInput
from parley.domain.requests import Provider
from parley.storage import auto_analyze as runs

NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
KEY_CHARACTERS = 8


async def label_drift(backend: Backend, workspace_id: str, earlier: str, later: str) -> LabelDrift:
    """`Client.label_drift` documents it."""
    async with backend.database.reads() as tx:
        first, second = await runs.find(tx, workspace_id, earlier), await runs.find(tx, workspace_id, later)
        kinds = await drift_of(tx, workspace_id, first.job_key, second.job_key)
    return LabelDrift(earlier=first.job_key, later=second.job_key, kinds=kinds)


async def fork(
    backend: Backend,
    workspace_id: str,
    job_id: str,
    *,
    provider: Provider | None,
    model: str | None,
    instructions: str | None,
    budget_usd: Decimal | None,
    run_name: str,
) -> AutoAnalyzeHandle:
    """`Client.fork_auto_analyze` documents it."""
    async with backend.database.reads() as tx:
        row = await runs.find(tx, workspace_id, job_id)
    if row.status != "completed":
        raise InvalidInput(f"is {row.status}: only a completed run can be repeated", where=job_id)
    provider = provider or provider_of(model, backend.settings)
    if provider is None and instructions is None:
        raise InvalidInput("is missing: name another model, another provider or other instructions", where="model")
    changed: dict[str, Any] = {"fork_of": row.job_key, "snapshot": None}
    if provider is not None:
        changed |= {"provider": provider, "model": model}
    if instructions is not None:
        changed["instructions"] = instructions
    if budget_usd is not None:
        changed["budget_usd"] = budget_usd
    try:
        job = AutoAnalyzeInput.model_validate({**row.settings, **changed})
    except ValidationError as error:
        raise first_problem(error, where="fork") from None
    check_model(job.provider, job.model, backend.settings)
    return await start_run(backend, job, run_name or _fork_name(job, row.job_key, instructions))


def _fork_name(job: AutoAnalyzeInput, original: str, instructions: str | None) -> str:
    """A name that two forks of a run share only if they have the same model and instructions."""
    model = job.model or (job.provider.value if job.provider else "")
    digest = hashlib.sha256(instructions.encode()).hexdigest()[:KEY_CHARACTERS] if instructions is not None else ""
    parts = ("fork", original[:KEY_CHARACTERS], NOT_IN_A_NAME.sub("-", model), digest)
    return "-".join(filter(None, parts))


async def compare_runs(backend: Backend, workspace_id: str, first: str, second: str, examples: int) -> RunComparison:
    """`Client.compare_runs` documents it."""
    async with backend.database.transaction(bulk=True) as tx:
        rows = await runs.find(tx, workspace_id, first), await runs.find(tx, workspace_id, second)
        if rows[0].dataset_id != rows[1].dataset_id:
            raise InvalidInput(f"has other sessions than {first}: only runs on one dataset compare", where=second)
        return await comparison_of(tx, *rows, examples=examples)
