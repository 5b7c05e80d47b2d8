"""The paid step of `ScoreQuality`: have an answer graded."""

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.boundary import boundary
from activities.paid_call import PaidCalls
from parley.domain.generate.policy import Policy
from parley.domain.generate.quality import ACTION, ScoreResult, ScoreStep, grading_request, read_grade
from parley.storage import generations
from parley.storage.budgets import Envelope
from parley.storage.database import Database
from parley.storage.ledger import Charge, Settled


class QualityCalls:
    """An activity on a provider's queue."""

    def __init__(self, database: Database, paid_calls: PaidCalls, policy: Policy) -> None:
        self._database, self._paid_calls = database, paid_calls
        self._daily_usd = policy.quality_budget_usd_per_day

    @activity.defn(name="quality.score")
    @boundary
    async def score(self, step: ScoreStep) -> ScoreResult:
        """Ask for a grade; it is kept with what it cost, in one transaction. The user pays nothing for it."""
        asked = step.asked
        async with self._database.transaction() as tx:
            prompt = await generations.load_prompt(tx, asked.workspace_id, asked.prompt)
            answer = await generations.answer(tx, asked.workspace_id, asked.request_id)

        async def keep(tx: AsyncSession, settled: Settled) -> None:
            score = read_grade(settled.reply).score
            if score is not None:
                await generations.grade(tx, asked.workspace_id, asked.request_id, score)

        charge = Charge(
            workspace_id=asked.workspace_id,
            user_id=asked.user_id,
            prospect_id=asked.prospect_id,
            job_key=step.job_key,
            workflow_id=step.workflow_id,
            request_id=step.request_id,
            action=ACTION,
            energy=0,
            envelope=Envelope(cap_usd=self._daily_usd),
        )
        request, grader = grading_request(prompt, answer.text), asked.candidate
        return read_grade(
            (await self._paid_calls.make(charge, request, grader.provider, grader.model, on_won=keep)).reply
        )
