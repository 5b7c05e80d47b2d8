"""Top users up to the daily energy of their tier."""

from collections.abc import AsyncIterator

from temporalio import activity

from activities.boundary import boundary
from parley.domain.generate.policy import Policy
from parley.domain.housekeeping import RefillInput, RefillReport
from parley.storage import refill
from parley.storage.database import Database

MAX_TIERS_NAMED = 10


class RefillActivities:
    def __init__(self, database: Database, policy: Policy) -> None:
        self._database = database
        self._daily = {name: tier.daily_energy for name, tier in policy.tier.items()}

    @activity.defn(name="refill_energy")
    @boundary
    async def refill(self, job: RefillInput) -> RefillReport:
        """Top up all users, page by page. It is idempotent: a second run skips users who have received theirs."""
        users = energy = 0
        async for grants in self._pages(job):
            users, energy = users + len(grants), energy + sum(grants)
        async with self._database.transaction(bulk=True) as tx:
            unknown = await refill.of_other_tiers(tx, self._daily)
        for tier, count in list(unknown.items())[:MAX_TIERS_NAMED]:
            activity.logger.warning("no refill for %s users of the tier %r: the policy does not define it", count, tier)
        return RefillReport(
            day=job.day,
            users=users,
            energy=energy,
            skipped=sum(unknown.values()),
            unknown_tiers=tuple(tier[:100] for tier in list(unknown)[:MAX_TIERS_NAMED]),
        )

    async def _pages(self, job: RefillInput) -> AsyncIterator[tuple[int, ...]]:
        last: tuple[str, str] | None = ("", "")
        while last:
            async with self._database.transaction() as tx:
                page = await refill.top_up(tx, self._daily, key=job.grant_key, after=last, page=job.page)
            yield page.grants
            last = page.last
