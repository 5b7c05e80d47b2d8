"""Attempts at several requests that are sent as one, and settled in one transaction."""

from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from parley.domain.costs import BilledAttempt
from parley.domain.errors import NotFound
from parley.storage import corrections
from parley.storage.audit import audit_billed
from tests.storage.ledger_fixture import COST, JOB, NOTHING, PRICE, USER, LedgerFixture

OTHER_JOB, OTHER_USER = "other job", "bob"


@pytest.fixture
async def joint_id() -> UUID:
    return uuid4()


@pytest.fixture
async def both(books: LedgerFixture, joint_id: UUID) -> list[UUID]:
    """Two attempts of different jobs and users."""
    await books.open(user=OTHER_USER, job=OTHER_JOB)
    return [
        await books.granted(joint_id=joint_id),
        await books.granted(job=OTHER_JOB, user_id=OTHER_USER, joint_id=joint_id),
    ]


async def test_each_member_is_charged_and_has_its_own_share(books: LedgerFixture, both: list[UUID]):
    shares = [Decimal("0.000000000001"), COST]
    settled = await books.settle_jointly(*both, costs=shares)
    assert [one.cost_usd for one in settled] == shares
    assert [(await books.dollars(job))[1] for job in (JOB, OTHER_JOB)] == shares
    assert [await books.energy(user) for user in (USER, OTHER_USER)] == [(PRICE, 0), (PRICE, 0)]
    assert (await books.day())[1] == sum(shares)


async def test_it_is_idempotent(books: LedgerFixture, both: list[UUID]):
    first = await books.settle_jointly(*both)
    assert await books.settle_jointly(*both) == first
    assert await books.energy(OTHER_USER) == (PRICE, 0)


async def test_all_are_settled_or_none(books: LedgerFixture, both: list[UUID]):
    with pytest.raises(NotFound):
        await books.settle_jointly(*both, uuid4())
    assert await books.states() == ["open"]
    assert await books.energy(OTHER_USER) == (0, PRICE)


async def test_a_member_that_was_answered_meanwhile_is_a_duplicate(books: LedgerFixture, joint_id: UUID):
    await books.open(user=OTHER_USER, job=OTHER_JOB)
    late, owner = await books.taken_over()
    other = await books.granted(job=OTHER_JOB, user_id=OTHER_USER, joint_id=joint_id)
    await books.settle(owner)
    settled = await books.settle_jointly(late, other)
    assert [one.attempt_id for one in settled] == [owner, other]
    assert await books.states() == ["duplicate", "settled"]
    assert await books.energy() == await books.energy(OTHER_USER) == (PRICE, 0)


async def test_a_cost_that_is_not_known_stays_within_each_bound(books: LedgerFixture, both: list[UUID]):
    await books.settle_jointly(*both, costs=[None, None])
    assert [(await books.row(one)).confirmed for one in both] == [False, False]


async def test_a_list_has_one_line_for_all_members(books: LedgerFixture, both: list[UUID], joint_id: UUID):
    """The two have the same bound, so that each has half of what the list says."""
    await books.settle_jointly(*both, costs=[COST, None])
    line = BilledAttempt(source="line 2", attempt_id=joint_id, cost_usd=2 * COST, input_tokens=2000, output_tokens=400)
    async with books.database.transaction() as tx:
        [found] = await corrections.find(tx, books.workspace, [line], None)
        assert (found.attempt_id, found.cost_usd) == (both[1], COST)
    async with books.database.transaction() as tx:
        assert await corrections.apply(tx, books.workspace, found)
    async with books.database.transaction() as tx:
        assert await audit_billed(tx, books.workspace, [line]) == []
    assert (await books.dollars(OTHER_JOB))[1:] == (COST, NOTHING)
