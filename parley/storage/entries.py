"""The rows that the ledger writes for an ended attempt: usage log, journaled reply and event."""

from decimal import Decimal
from typing import Any

from parley.domain.model import storable
from parley.domain.requests import Reply, Usage
from parley.storage.tables import Attempt, JournaledReply, OutboxEvent, PaidRequest, UsageLog


def usage_row(
    request: PaidRequest,
    attempt: Attempt,
    *,
    confirmed: bool,
    usage: Usage,
    answered_by: str = "",
    charged: int = 0,
) -> UsageLog:
    """The attempt's usage row. An unconfirmed row has the upper bound as cost until the real cost is known."""
    cost = attempt.cost_usd if confirmed else attempt.upper_bound_usd
    return UsageLog(
        **_counts(usage),
        user_id=request.user_id,
        workspace_id=request.workspace_id,
        prospect_id=request.prospect_id,
        action=request.action,
        provider=attempt.provider,
        model=attempt.model,
        answered_by=storable(answered_by),
        simulated=attempt.simulated,
        cost_usd=cost or Decimal(0),
        confirmed=confirmed,
        outcome=attempt.state,
        energy_charged=charged,
        rates=attempt.rates,
        job_key=request.job_key,
        request_id=request.request_id,
        attempt_id=attempt.id,
    )


def confirmed_row(row: UsageLog, cost_usd: Decimal, usage: Usage) -> UsageLog:
    """The row at its true cost. What the reply counted stays; `usage` is for a row without counts."""
    is_counted = row.tokens_total or row.audio_seconds
    return row.model_copy(update={"cost_usd": cost_usd, "confirmed": True} | ({} if is_counted else _counts(usage)))


def _counts(usage: Usage) -> dict[str, Any]:
    return {
        "tokens_prompt": usage.input_tokens,
        "tokens_cached": usage.cached_input_tokens,
        "tokens_cache_written": usage.cache_write_tokens,
        "tokens_completion": usage.output_tokens,
        "tokens_total": usage.total_tokens,
        "audio_seconds": Decimal(str(usage.audio_seconds)),
    }


def journal_entry(attempt: Attempt, reply: Reply) -> JournaledReply:
    payload = storable(reply.model_dump(mode="json"))
    return JournaledReply(attempt_id=attempt.id, workspace_id=attempt.workspace_id, payload=payload)


def completed_event(request: PaidRequest, attempt: Attempt, reply: Reply, charged: int) -> OutboxEvent:
    return _event(
        request,
        attempt,
        "ai_generation_completed",
        {
            "tokens_total": reply.usage.total_tokens,
            "cost_usd": str(attempt.upper_bound_usd if attempt.cost_usd is None else attempt.cost_usd),
            "energy_charged": charged,
        },
    )


def failed_event(request: PaidRequest, attempt: Attempt) -> OutboxEvent:
    return _event(request, attempt, "ai_generation_failed", {"error": attempt.error_type, "billed": attempt.billed})


def above_bound_event(request: PaidRequest, attempt: Attempt, cost_usd: Decimal) -> OutboxEvent:
    details: dict[str, object] = {"cost_usd": str(cost_usd), "upper_bound_usd": str(attempt.upper_bound_usd)}
    return _event(request, attempt, "ai_cost_above_bound", details)


def _event(request: PaidRequest, attempt: Attempt, kind: str, details: dict[str, object]) -> OutboxEvent:
    payload = {
        "request_id": request.request_id,
        "user_id": request.user_id,
        "action": request.action,
        "provider": attempt.provider,
        "model": attempt.model,
        "simulated": attempt.simulated,
        **details,
    }
    return OutboxEvent(workspace_id=request.workspace_id, kind=kind, attempt_id=attempt.id, payload=payload)
