"""How often each step of `Generate` waits for the database. A round trip costs more than most statements."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from temporalio.testing import ActivityEnvironment

from activities.parts import Parts
from parley.domain.conversation.contract import ComposeOutcome, ComposeStep, NewTurn
from parley.domain.generate.contract import AskOutcome, AskStep, GenerateInput, Job, PrepareOutcome, Prompt
from parley.domain.requests import Message
from parley.settings import Settings
from parley.storage import conversations
from tests.activities.proxy import DatabaseProxy


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[DatabaseProxy]:
    async with DatabaseProxy(database_url) as proxy:
        yield proxy


def generation() -> Job:
    """A generation whose answer may be cached."""
    prompt = Prompt(messages=(Message(role="user", content=f"hello {uuid4().hex}"),))
    given = GenerateInput(workspace_id="acme", user_id="ann", prompt=prompt)
    return Job.of(given, f"acme/{uuid4().hex}", datetime.now(UTC))


async def test_each_step_waits_as_seldom_as_it_can(proxy: DatabaseProxy, settings: Settings):
    """`prepare`: all that is known, the cache. `ask`: claim, caps and commit; lock and commit; the answer's record."""
    parts = Parts(proxy.database, settings)
    decisions, asking = parts.generate_decisions(), parts.generate_paid_steps()
    environment, trips = ActivityEnvironment(), list[int]()
    for _ in range(2):  # the first generation connects and fills the worker's caches
        job = generation()
        began = proxy.round_trips
        prepared: PrepareOutcome = await environment.run(decisions.prepare, job)
        decided = proxy.round_trips
        step = AskStep(
            job=job, serving=prepared.serving, candidate=prepared.candidates[0], ask=1, empty=0, is_first=True
        )
        outcome: AskOutcome = await environment.run(asking.ask, step)
        trips = [decided - began, proxy.round_trips - decided]
        assert outcome.result is not None
        assert outcome.result.success
    assert trips == [2, 6]
    await parts.close()


async def test_a_turn_waits_as_seldom_as_it_can_before_it_is_asked(proxy: DatabaseProxy, settings: Settings):
    """`begin_turn`: lock, commit. `compose`: lock, commit; what is known of the user, exchanges, prompt; `prepare`."""
    parts = Parts(proxy.database, settings)
    turns, environment, trips = parts.conversation_steps(), ActivityEnvironment(), list[int]()
    for number in range(2):  # the first turn connects and fills the worker's caches
        prompt = Prompt(messages=(Message(role="user", content=f"hello {number}"),))
        given = GenerateInput(workspace_id="acme", user_id="ann", prompt=prompt)
        began = proxy.round_trips
        async with proxy.database.transaction() as tx:
            await conversations.begin_turn(tx, NewTurn.of("talk", f"turn-{number}", given))
        stored = proxy.round_trips
        step = ComposeStep(
            workspace_id="acme",
            conversation_id="talk",
            user_id="ann",
            turn_id=f"turn-{number}",
            at=datetime.now(UTC),
        )
        composed: ComposeOutcome = await environment.run(turns.compose, step)
        trips = [stored - began, proxy.round_trips - stored]
        assert composed.job is not None
        assert composed.prepared is not None
        assert composed.prepared.candidates
    assert trips == [2, 7]
    await parts.close()
