"""One paid request of a labelling run."""

from activities.paid_call import PaidCalls
from parley.domain.auto_analyze.contract import ACTION, Job, UsedByStep
from parley.domain.requests import ChatReply, ChatRequest, request_id
from parley.domain.routing import Candidate
from parley.storage.ledger import Charge


async def ask(
    paid_calls: PaidCalls, job: Job, candidate: Candidate, step: str, request: ChatRequest
) -> tuple[ChatReply, UsedByStep]:
    """Ask under the name of a step. Users are not charged energy for it: the run's envelope bounds it in dollars."""
    charge = Charge(
        workspace_id=job.input.workspace_id,
        user_id=job.input.user_id,
        job_key=job.job_key,
        workflow_id=job.workflow_id,
        request_id=request_id(job.job_key, step),
        action=ACTION,
        energy=0,
    )
    settled = await paid_calls.make(charge, request, candidate.provider, candidate.model)
    assert isinstance(settled.reply, ChatReply)  # noqa: S101 - a chat request was asked
    return settled.reply, UsedByStep(tokens=settled.reply.usage.total_tokens, cost_usd=settled.cost_usd)
