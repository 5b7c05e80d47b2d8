"""Several paid requests by one call to a provider."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.paid_call import Joint, MemberRequest, PaidCalls
from parley.domain.errors import InsufficientEnergy, ParleyError, ProviderUnavailable
from parley.domain.requests import ChatReply, ChatRequest, Message, Provider, fingerprint
from parley.storage import configuration
from parley.storage.configuration import WORKSPACE as SHARED
from parley.storage.ledger import Charge, Settled
from parley.storage.tables import Attempt
from tests.parts import SimulatorAdmin, until
from tests.storage.ledger_fixture import PRICE, WORKSPACE, LedgerFixture

MODEL = "claude-haiku-4-5"
USERS = ("ann", "bob", "cleo")


def request(number: int) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=f"Question {number}: how do I sound?"),), max_tokens=100)


def asked(*users: str) -> list[MemberRequest]:
    return [
        MemberRequest(
            Charge(
                workspace_id=WORKSPACE,
                user_id=user,
                job_key=f"job of {user}",
                workflow_id="workflow",
                request_id=f"job of {user}/coaching",
                action="coaching",
                energy=PRICE,
            ),
            request(number),
        )
        for number, user in enumerate(users)
    ]


def join(places: Sequence[int]) -> ChatRequest:
    texts = [request(place).messages[0].text for place in places]
    return ChatRequest(messages=(Message(role="user", content="\n".join(texts)),), max_tokens=100 * len(texts))


def divide(reply: ChatReply, count: int) -> list[ChatReply]:
    return [reply.model_copy(update={"text": f"part {part} of {count}"}) for part in range(count)]


JOINT = Joint(join=join, divide=divide)


async def make(paid_calls: PaidCalls, *users: str) -> list[Any]:
    return await ActivityEnvironment().run(paid_calls.make_jointly, asked(*users), JOINT, Provider.ANTHROPIC, MODEL)


def texts(ends: list[Settled | ParleyError]) -> list[str]:
    return [end.reply.text if isinstance(end, Settled) and isinstance(end.reply, ChatReply) else "" for end in ends]


@pytest.fixture
async def accounts(books: LedgerFixture) -> LedgerFixture:
    """Accounts and envelopes of three users."""
    for user in USERS:
        await books.open(user=user, job=f"job of {user}")
    return books


@pytest.mark.usefixtures("accounts")
async def test_each_gets_its_part_in_the_order_in_which_they_were_asked(
    paid_calls: PaidCalls, simulator: SimulatorAdmin
):
    ends = await make(paid_calls, "cleo", "ann", "bob")
    # The parts are in the order of the request ids.
    assert texts(ends) == ["part 2 of 3", "part 0 of 3", "part 1 of 3"]
    assert len(await simulator.billed()) == 1


@pytest.mark.usefixtures("accounts")
async def test_one_that_has_its_reply_is_not_part_of_the_next_call(paid_calls: PaidCalls, simulator: SimulatorAdmin):
    first = await make(paid_calls, "ann", "bob")
    again = await make(paid_calls, "ann", "bob", "cleo")
    assert again[:2] == first
    assert texts(again)[2].startswith("You")  # alone, it was sent as it is
    assert len(await simulator.billed()) == 2


async def test_one_that_is_refused_does_not_refuse_the_others(paid_calls: PaidCalls, books: LedgerFixture):
    await books.open(user="bob", job="job of bob", energy_granted=PRICE - 1)
    for user in ("ann", "cleo"):
        await books.open(user=user, job=f"job of {user}")
    ann, bob, cleo = await make(paid_calls, *USERS)
    assert isinstance(bob, InsufficientEnergy)
    assert texts([ann, cleo]) == ["part 0 of 2", "part 1 of 2"]
    assert await books.energy("bob") == (0, 0)


async def test_a_failure_ends_every_attempt_and_counts_once_for_the_breaker(
    paid_calls: PaidCalls, accounts: LedgerFixture, simulator: SimulatorAdmin
):
    await simulator.fault("server_error")
    ends = await make(paid_calls, *USERS)
    assert all(isinstance(end, ProviderUnavailable) for end in ends)
    assert [await accounts.energy(user) for user in USERS] == [(0, 0)] * 3
    # Three failures would open the breaker.
    assert texts(await make(paid_calls, *USERS)) == ["part 0 of 3", "part 1 of 3", "part 2 of 3"]


async def test_one_that_is_cancelled_while_a_member_waits_gives_back_what_the_others_reserved(
    paid_calls: PaidCalls, accounts: LedgerFixture
):
    """The last member waits for the lease of another attempt."""
    other = asked(*USERS)[2]
    held = await accounts.granted("coaching", job="job of cleo", user_id="cleo", fingerprint=fingerprint(other.request))
    making = asyncio.create_task(make(paid_calls, *USERS))

    async def is_waiting() -> bool:
        return len(await accounts.all(Attempt)) == len(USERS)

    await until(is_waiting)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    ended = [one for one in await accounts.all(Attempt) if one.id != held]
    assert [(one.state, one.cost_usd, one.error_type) for one in ended] == [("failed", 0, "NotSent")] * 2
    assert [await accounts.energy(user) for user in ("ann", "bob")] == [(0, 0)] * 2


@pytest.mark.usefixtures("accounts")
async def test_what_a_workspace_masks_is_masked_in_the_joint_request(paid_calls: PaidCalls, books: LedgerFixture):
    """The simulator mentions the words that it was sent."""
    async with books.database.transaction() as tx:
        await configuration.save(tx, WORKSPACE, "privacy", {"mask": ["email"]}, owner=SHARED)

    def joined(places: Sequence[int]) -> ChatRequest:
        return ChatRequest(messages=(Message(role="user", content="ada@example.com, " * len(places)),), max_tokens=200)

    whole = Joint(join=joined, divide=lambda reply, count: [reply] * count)
    ends = await ActivityEnvironment().run(paid_calls.make_jointly, asked(*USERS), whole, Provider.ANTHROPIC, MODEL)
    assert ["email" in text and "example" not in text for text in texts(ends)] == [True] * 3
