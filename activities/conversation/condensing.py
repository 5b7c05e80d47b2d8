"""The paid step that condenses a conversation between two turns: its running summary goes on."""

import hashlib
import json

from temporalio import activity

from activities.boundary import boundary
from activities.conversation.context import due, summary_of
from activities.paid_call import PaidCalls
from parley.domain.conversation.context import RunningSummary
from parley.domain.conversation.contract import (
    CondenseTurnsOutcome,
    CondenseTurnsStep,
    condense_id,
    upkeep_key,
    workflow_id,
)
from parley.domain.generate.condensing import Split, room_tokens, summary_request, summary_text
from parley.domain.generate.policy import Policy
from parley.domain.generate.replies import chat_reply
from parley.storage import conversations
from parley.storage.budgets import Envelope
from parley.storage.database import Database
from parley.storage.ledger import Charge


class CondensingStep:
    """An activity on a provider's queue, with at most one paid request. The user is not charged."""

    def __init__(self, database: Database, paid_calls: PaidCalls, policy: Policy) -> None:
        self._database, self._paid_calls, self._policy = database, paid_calls, policy

    @activity.defn(name="conversation.condense")
    @boundary
    async def condense(self, step: CondenseTurnsStep) -> CondenseTurnsOutcome:
        """Request a summary of what was said since the last one, and store it. A summary that goes further stays."""
        where = (step.workspace_id, step.conversation_id)
        async with self._database.transaction() as tx:
            conversation = await conversations.find(tx, *where)
            if conversation is None or conversation.summarized_through >= step.through:
                return CondenseTurnsOutcome()
            before = summary_of(conversation)
            exchanges = await conversations.exchanges(tx, *where, after=before.through, through=step.through)
        said = tuple(message for exchange in exchanges for message in exchange.messages)
        room = room_tokens(step.candidate.model)
        charge = Charge(
            workspace_id=step.workspace_id,
            user_id=step.user_id,
            job_key=upkeep_key(*where),
            workflow_id=workflow_id(*where),
            request_id=condense_id(*where, step.through, room),
            action=step.action,
            energy=0,
            envelope=Envelope(cap_usd=None),
        )
        settled = await self._paid_calls.make(
            charge,
            summary_request(Split(system=(), earlier=said, recent=(), summary=before.text), room),
            step.candidate.provider,
            step.candidate.model,
            fingerprint=_fingerprint(step),
        )
        reply = chat_reply(settled.reply)
        text = summary_text(reply)
        if not text:
            return CondenseTurnsOutcome(cost_usd=settled.cost_usd)
        summary = RunningSummary(text=text, through=step.through, tokens=reply.usage.output_tokens)
        async with self._database.transaction() as tx:
            await conversations.save_summary(tx, *where, summary)
            again = await due(tx, *where, self._policy, step.action)
        return CondenseTurnsOutcome(cost_usd=settled.cost_usd, condense_through=again)


def _fingerprint(step: CondenseTurnsStep) -> str:
    """Of what is condensed: the same turns, whatever else ended since."""
    asked = json.dumps([step.workspace_id, step.conversation_id, step.through])
    return hashlib.sha256(asked.encode()).hexdigest()
