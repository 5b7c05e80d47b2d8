"""What the ledger's rows say of an attempt that has ended: its row in the usage log, and its event."""

from decimal import Decimal

from parley.domain.calls import Reply, Usage
from parley.storage.database import storable
from parley.storage.tables import Call, CallAttempt, JournaledReply, OutboxEvent, UsageLog


def usage_row(
    call: Call,
    attempt: CallAttempt,
    *,
    confirmed: bool,
    usage: Usage,
    answered_by: str = "",
    charged: int = 0,
) -> UsageLog:
    """The attempt's row; of a lost attempt its estimate, until it is known what it really cost."""
    cost = attempt.cost_usd if confirmed else attempt.estimated_usd
    return UsageLog(
        user_id=call.user_id,
        workspace_id=call.workspace_id,
        prospect_id=call.prospect_id,
        action=call.action,
        provider=attempt.provider,
        model=attempt.model,
        answered_by=storable(answered_by),
        simulated=attempt.simulated,
        tokens_prompt=usage.input_tokens,
        tokens_cached=usage.cached_input_tokens,
        tokens_cache_written=usage.cache_write_tokens,
        tokens_completion=usage.output_tokens,
        tokens_total=usage.total_tokens,
        audio_seconds=Decimal(str(usage.audio_seconds)),
        cost_usd=cost or Decimal(0),
        confirmed=confirmed,
        outcome=attempt.state,
        energy_charged=charged,
        rates=attempt.rates,
        job_key=call.job_key,
        request_id=call.request_id,
        attempt_id=attempt.id,
    )


def journal_entry(attempt: CallAttempt, reply: Reply) -> JournaledReply:
    payload = storable(reply.model_dump(mode="json"))
    return JournaledReply(attempt_id=attempt.id, workspace_id=attempt.workspace_id, payload=payload)


def completed_event(call: Call, attempt: CallAttempt, reply: Reply, charged: int) -> OutboxEvent:
    return _event(
        call,
        attempt,
        "ai_generation_completed",
        {
            "tokens_total": reply.usage.total_tokens,
            "cost_usd": str(attempt.cost_usd),
            "energy_charged": charged,
        },
    )


def failed_event(call: Call, attempt: CallAttempt) -> OutboxEvent:
    return _event(call, attempt, "ai_generation_failed", {"error": attempt.error_type, "billed": attempt.billed})


def _event(call: Call, attempt: CallAttempt, kind: str, details: dict[str, object]) -> OutboxEvent:
    payload = {
        "request_id": call.request_id,
        "attempt_id": str(attempt.id),
        "user_id": call.user_id,
        "action": call.action,
        "provider": attempt.provider,
        "model": attempt.model,
        "simulated": attempt.simulated,
        **details,
    }
    return OutboxEvent(workspace_id=call.workspace_id, kind=kind, payload=payload)
