"""A job that is one paid request, without a workflow. It runs inline only, in a gateway."""

from decimal import Decimal

from activities.paid_call import PaidCalls
from parley.domain.embedding import EmbeddingJob
from parley.domain.generate.contract import Meta
from parley.domain.generate.policy import Policy
from parley.domain.requests import EmbeddingReply, SpeechReply
from parley.domain.speech_job import SpeechJob
from parley.storage import energy, generations
from parley.storage.budgets import Envelope
from parley.storage.database import Database
from parley.storage.ledger import Charge, Settled

REASON = "named by the caller"


class OneCall:
    """`policy` and `starting_energy` come from the settings. A new user is granted `starting_energy`."""

    def __init__(self, database: Database, paid_calls: PaidCalls, policy: Policy, starting_energy: int) -> None:
        self._database, self._paid_calls = database, paid_calls
        self._policy, self._starting_energy = policy, starting_energy

    async def make(self, job: EmbeddingJob | SpeechJob) -> Settled:
        """Make the job's request, or return the reply that was paid for under its id.

        Raises:
            ParleyError: as `PaidCalls.make` does.
        """
        asked, action = job.input, self._policy.of_action(job.input.action)
        if action.energy:
            async with self._database.transaction() as tx:
                await energy.open_account(tx, asked.workspace_id, asked.user_id, starting_energy=self._starting_energy)
        charge = Charge(
            workspace_id=asked.workspace_id,
            user_id=asked.user_id,
            job_key=job.job_key,
            workflow_id=job.id,
            request_id=job.request_id,
            action=asked.action,
            energy=action.energy,
            envelope=Envelope(cap_usd=action.max_cost_usd),
        )
        return await self._paid_calls.make(
            charge, asked.request, asked.provider, asked.model, fingerprint=asked.fingerprint()
        )

    async def described(self, job: EmbeddingJob | SpeechJob, settled: Settled) -> Meta:
        """How the reply was made, and what all attempts have cost."""
        reply = settled.reply
        assert isinstance(reply, EmbeddingReply | SpeechReply)  # noqa: S101 - a fingerprint belongs to one kind
        cost_usd, attempts = await self._totals(job, settled)
        return Meta(
            request_id=job.request_id,
            usage=reply.usage,
            cost_usd=cost_usd,
            provider=settled.provider,
            model=settled.model,
            answered_by=reply.model,
            simulated=settled.simulated,
            attempts=attempts,
            reason=REASON,
            energy_charged=settled.energy_charged,
            energy_left=settled.energy_left,
        )

    async def _totals(self, job: EmbeddingJob | SpeechJob, settled: Settled) -> tuple[Decimal, int]:
        """What all attempts have cost, and their number."""
        if settled.is_only_attempt:
            return settled.cost_usd, 1
        async with self._database.transaction() as tx:
            return await generations.totals(tx, job.input.workspace_id, job.job_key)
