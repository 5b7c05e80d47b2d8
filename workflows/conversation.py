"""`Conversation`: one long-lived chat. Its turns are answered one at a time, each by the story of a `Generate`."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.conversation.changing import ConversationChanges
    from activities.conversation.context import ConversationSteps as Steps
    from parley import visibility
    from parley.domain.configuration import parse_section
    from parley.domain.conversation.contract import (
        CLOSE,
        CONTEXT,
        CORRECT_MEMORY,
        COST,
        FORGET_MEMORY,
        PREFERENCES,
        RECENT_TURNS,
        SAY,
        SET_PREFERENCES,
        STATE,
        TRY_AGAIN,
        TURNS_PER_EXTRACTION,
        TURNS_PER_RUN,
        WORKFLOW,
        Carried,
        Change,
        Changed,
        ChangeStep,
        Close,
        CloseStep,
        ComposeStep,
        ContextState,
        ConversationCost,
        ConversationInput,
        ConversationState,
        CorrectMemory,
        Ended,
        ForgetMemory,
        Say,
        SetPreferences,
        TurnOutcome,
    )
    from parley.domain.conversation.memory import checked_value
    from parley.domain.errors import ConversationClosed, InvalidInput, ParleyError
    from parley.domain.generate.contract import Meta
    from parley.domain.streaming import StreamBroken
    from workflows.fallback import DurableEngine
    from workflows.operating import history_is_long, refused, show_waiting
    from workflows.policies import ANSWER_STEP
    from workflows.turns import DurableTurn, TurnQueue
    from workflows.upkeep import Upkeep


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class Conversation:
    """Answer the turns of one conversation in their order, and keep its context short between them.

    The database has the texts: this holds ids and counts. While nothing is asked it has no timer and no activity, so
    that a worker may drop it from its memory.
    """

    @workflow.init
    def __init__(self, given: ConversationInput | None = None) -> None:
        self._input = given or ConversationInput(workspace_id="", conversation_id="", user_id="")
        carried = self._input.carried
        self._turns, self._tokens, self._cost_usd = carried.turns, carried.tokens, carried.cost_usd
        self._recent = {one.turn_id: one for one in carried.recent}
        self._unremembered = list(carried.unremembered)
        self._queue = TurnQueue()
        self._context_sha256, self._context = carried.context_sha256, carried.context
        self._upkeep_usd, self._saved_usd = carried.upkeep_usd, carried.saved_usd
        self._prompt_cache_saved_usd = carried.prompt_cache_saved_usd
        self._turns_of_run, self._closed, self._ends = 0, False, False
        # What is left to do between turns.
        self._is_upkeep_due = False
        self._condense_through: int | None = None
        self._candidates, self._action = carried.candidates, carried.action

    # Turns

    @workflow.update(name=SAY)
    async def say(self, say: Say) -> TurnOutcome:
        """Answer a turn, after those that came before it."""
        return await self._queue.next(lambda: self._answer(say))

    @say.validator
    def _check_say(self, say: Say) -> None:
        if self._closed:
            raise refused(ConversationClosed("the conversation is closed: begin another one"))
        self._queue.check(say, ends=self._ends)

    @workflow.signal
    async def stream_broken(self, broken: StreamBroken) -> None:
        """The worker of an attempt of a turn's stream died: the answer goes on at once, by a further attempt."""
        self._queue.stream_broke(broken)

    async def _answer(self, say: Say) -> TurnOutcome:
        if known := self._recent.get(say.turn_id):
            return known
        turn = DurableTurn(self._compose_step(say))
        try:
            outcome = await self._queue.outcome(turn)
        except ApplicationError as error:
            if error.type == ConversationClosed.__name__:
                self._closed = True  # this run was started by a turn that was stored as the conversation was closed
            raise
        if turn.meta is not None and turn.asked is not None:
            self._count(outcome, turn.meta)
            self._context_sha256, self._context = turn.context_sha256, turn.context
            self._plan_upkeep(outcome, turn, turn.asked.action)
        return outcome

    def _compose_step(self, say: Say) -> ComposeStep:
        return ComposeStep(
            workspace_id=self._input.workspace_id,
            conversation_id=self._input.conversation_id,
            user_id=self._input.user_id,
            turn_id=say.turn_id,
            stream=say.stream,
            at=workflow.now(),
        )

    def _count(self, outcome: TurnOutcome, meta: Meta) -> None:
        self._turns, self._turns_of_run = self._turns + 1, self._turns_of_run + 1
        self._tokens, self._cost_usd = self._tokens + meta.usage.total_tokens, self._cost_usd + meta.cost_usd
        self._saved_usd += meta.saved_usd
        self._prompt_cache_saved_usd += meta.prompt_cache_saved_usd
        self._recent[outcome.turn_id] = outcome
        if len(self._recent) > RECENT_TURNS:
            del self._recent[next(iter(self._recent))]
        workflow.set_current_details(f"{self._turns} turns, {self._tokens} tokens, ${self._cost_usd}")

    # Between turns

    def _plan_upkeep(self, outcome: TurnOutcome, turn: DurableTurn, action: str) -> None:
        self._candidates, self._action = turn.cheapest_first or self._candidates, action
        self._condense_through = turn.condense_through
        if outcome.outcome is Ended.COMPLETED:
            self._unremembered.append(outcome.turn_id)
        is_due = turn.condense_through is not None or len(self._unremembered) >= TURNS_PER_EXTRACTION
        # A turn that the cache answers chooses no provider. What it leaves waits for one that does: `run` must not wake
        # for what it cannot do.
        self._is_upkeep_due = is_due and bool(self._candidates)

    async def _keep_up(self) -> None:
        """Condense, and extract facts. A failure is only in the history: the end of the next turn plans again."""
        while self._is_upkeep_due and self._candidates:
            through, turn_ids = self._condense_through, tuple(self._unremembered)
            self._is_upkeep_due, self._condense_through = False, None
            with suppress(ApplicationError):
                await self._condense_until_short(through)
            if len(turn_ids) >= TURNS_PER_EXTRACTION or (self._closed and turn_ids):
                with suppress(ApplicationError):
                    remembered = await self._upkeep.remember(turn_ids)
                    self._count_upkeep(remembered.cost_usd)
                    del self._unremembered[: len(turn_ids)]

    def _count_upkeep(self, cost_usd: Decimal) -> None:
        self._cost_usd, self._upkeep_usd = self._cost_usd + cost_usd, self._upkeep_usd + cost_usd

    async def _condense_until_short(self, through: int | None) -> None:
        while through is not None:
            condensed = await self._upkeep.condense(through, self._action)
            self._count_upkeep(condensed.cost_usd)
            through = condensed.condense_through

    @property
    def _upkeep(self) -> Upkeep:
        return Upkeep(
            workspace_id=self._input.workspace_id,
            conversation_id=self._input.conversation_id,
            user_id=self._input.user_id,
            candidates=self._candidates,
            label="between turns",
        )

    # Changes of what is stored of the user

    @workflow.update(name=SET_PREFERENCES)
    async def set_preferences(self, change: SetPreferences) -> Changed:
        """Replace the preferences of the user, after the turns that wait."""
        return await self._change(change)

    @set_preferences.validator
    def _check_preferences(self, change: SetPreferences) -> None:
        self._check_change(lambda: parse_section(PREFERENCES, change.preferences))

    @workflow.update(name=CORRECT_MEMORY)
    async def correct_memory(self, change: CorrectMemory) -> Changed:
        """Replace the value of a memory of the user, after the turns that wait."""
        return await self._change(change)

    @correct_memory.validator
    def _check_correction(self, change: CorrectMemory) -> None:
        self._check_change(lambda: checked_value(change.value))

    @workflow.update(name=FORGET_MEMORY)
    async def forget_memory(self, change: ForgetMemory) -> Changed:
        """Remove a memory of the user, or all of them, after the turns that wait."""
        return await self._change(change)

    @forget_memory.validator
    def _check_forgetting(self, change: ForgetMemory) -> None:
        self._check_change(lambda: change)

    def _check_change(self, check: Callable[[], object]) -> None:
        if self._closed:
            raise refused(ConversationClosed("the conversation is closed: change it in client.memory"))
        if self._ends:
            raise ApplicationError("the run ends", type=TRY_AGAIN, non_retryable=True)
        try:
            check()
        except InvalidInput as error:
            raise refused(error) from None

    async def _change(self, change: Change) -> Changed:
        """Make a change between two turns: those that came before it are answered without it."""
        update = workflow.current_update_info()
        assert update is not None  # noqa: S101 - only updates call this
        step = ChangeStep(
            workspace_id=self._input.workspace_id,
            user_id=self._input.user_id,
            change=change,
            update_id=update.id,
        )
        engine = DurableEngine(ANSWER_STEP, show_waiting)
        async with self._queue.order:
            return await engine.decide(ConversationChanges.change, step, summary="change what is stored")

    # The conversation

    @workflow.update(name=CLOSE)
    async def close(self, _: Close) -> ConversationState:
        """Close the conversation, after the turns that wait."""
        async with self._queue.order:
            step = CloseStep(workspace_id=self._input.workspace_id, conversation_id=self._input.conversation_id)
            engine = DurableEngine(ANSWER_STEP, show_waiting)
            await engine.decide(Steps.close, step, summary="close the conversation")
            self._closed = True
        return self.get_state()

    @workflow.query(name=STATE)
    def get_state(self) -> ConversationState:
        """Where the conversation is, as this run knows it."""
        return ConversationState(
            status="closed" if self._closed else "open",
            turns=self._turns,
            waiting=self._queue.waiting,
            tokens=self._tokens,
            cost_usd=self._cost_usd,
            context_sha256=self._context_sha256,
        )

    @workflow.query(name=CONTEXT)
    def get_context(self) -> ContextState:
        """What the context of the last turn was made of. `get_state` has the hash of its prompt."""
        return self._context

    @workflow.query(name=COST)
    def get_cost(self) -> ConversationCost:
        """What the conversation has cost, as this run knows it."""
        return ConversationCost(
            answers_usd=self._cost_usd - self._upkeep_usd,
            upkeep_usd=self._upkeep_usd,
            saved_usd=self._saved_usd,
            prompt_cache_saved_usd=self._prompt_cache_saved_usd,
        )

    @workflow.run
    async def run(self, given: ConversationInput | None = None) -> ConversationState:
        """Keep the context short between turns, until the conversation is closed.

        Raises:
            InvalidInput: the workflow was started without input.
        """
        if given is None:
            raise InvalidInput("Conversation needs a ConversationInput", where="input")
        visibility.record_owner(given.workspace_id, WORKFLOW)
        try:
            while not self._closed and not self._is_run_long:
                await workflow.wait_condition(lambda: self._closed or self._is_upkeep_due or self._is_run_long)
                await self._keep_up()
        except asyncio.CancelledError:  # no `finally`: it would also run where a worker drops the workflow
            await self._answer_the_last()
            raise
        await self._answer_the_last()
        self._is_upkeep_due = self._is_upkeep_due or self._closed
        await self._keep_up()
        if not self._closed:
            workflow.continue_as_new(given.model_copy(update={"carried": self._carried()}))
        visibility.record_end("closed", cost_usd=self._cost_usd)
        return self.get_state()

    async def _answer_the_last(self) -> None:
        """Take no further turn, and answer those that wait: neither a next run nor an end leaves one out."""
        self._ends = True
        await workflow.wait_condition(workflow.all_handlers_finished)

    @property
    def _is_run_long(self) -> bool:
        return self._turns_of_run >= TURNS_PER_RUN or history_is_long()

    def _carried(self) -> Carried:
        return Carried(
            turns=self._turns,
            tokens=self._tokens,
            cost_usd=self._cost_usd,
            upkeep_usd=self._upkeep_usd,
            saved_usd=self._saved_usd,
            prompt_cache_saved_usd=self._prompt_cache_saved_usd,
            context_sha256=self._context_sha256,
            context=self._context,
            recent=tuple(self._recent.values()),
            unremembered=tuple(self._unremembered),
            candidates=self._candidates,
            action=self._action,
        )
