"""The contracts of the housekeeping jobs, which run for all workspaces."""

from datetime import UTC, date, datetime, time, timedelta

from pydantic import AwareDatetime, Field, field_validator

from parley.domain.budgets import Period, first_day, week_name
from parley.domain.model import Model

SWEEP = "Sweep"
DELIVER_EVENTS = "DeliverEvents"
REFILL_ENERGY = "RefillEnergy"
ALERT_ON_COSTS = "AlertOnCosts"
PURGE = "Purge"


class SweepInput(Model):
    """End stale paid requests. `batch`: how many to read at a time; a run looks at all of them."""

    batch: int = Field(default=200, gt=0)


class SweepReport(Model):
    """How many stale paid requests were checked, and how many were ended."""

    looked_at: int
    ended: int


class DeliverInput(Model):
    """Deliver events. `batch`: concurrent deliveries. `seconds`: how long to poll for further events; 0 polls once."""

    batch: int = Field(default=20, gt=0, le=100)
    seconds: float = Field(default=50, ge=0, le=90)


class DeliverReport(Model):
    """The outcomes of the deliveries. `failed` deliveries are retried, `abandoned` ones are not."""

    delivered: int = 0
    failed: int = 0
    abandoned: int = 0


class RefillInput(Model):
    """The day whose energy is granted, once to each user even if this runs twice. `page`: users per transaction."""

    day: date
    page: int = Field(default=1000, gt=0)

    @property
    def grant_key(self) -> str:
        return f"refill:{self.day}"


class RefillReport(Model):
    """How many users received how much energy. `skipped`: users of tiers that the policy does not define."""

    day: date
    users: int = 0
    energy: int = 0
    skipped: int = 0
    unknown_tiers: tuple[str, ...] = ()


class Week(Model):
    """An ISO week in UTC, by its first day."""

    monday: date

    @field_validator("monday")
    @classmethod
    def _is_a_monday(cls, day: date) -> date:
        if day != first_day(Period.WEEK, day):
            raise ValueError("must be a Monday, for example 2026-11-23")
        return day

    @property
    def name(self) -> str:
        return week_name(self.monday)

    @property
    def begins(self) -> datetime:
        return datetime.combine(self.monday, time(), UTC)

    @property
    def ends(self) -> datetime:
        return self.begins + timedelta(weeks=1)


def week_before(moment: datetime) -> Week:
    """The last week that had ended at that moment."""
    day = moment.astimezone(UTC).date()
    return Week(monday=first_day(Period.WEEK, day) - timedelta(weeks=1))


class AlertInput(Model):
    """The week whose spending is checked: at most one alert per workspace, even if this runs twice."""

    week: Week


class AlertReport(Model):
    """How many new alerts were raised: workspaces that spent more than the threshold."""

    week: str
    alerts: int


class PurgeInput(Model):
    """Delete what had expired at the moment `at`. `batch`: rows per transaction."""

    at: AwareDatetime
    batch: int = Field(default=1000, gt=0)


class PurgeReport(Model):
    """How many rows were deleted.

    `answers`, `prompts`, `summaries`: of the cache, and stored ones. `events`: of the outbox. `requests`: paid requests
    of old jobs, with all that the ledger has of them. `results`: further rows of old jobs, by table. `streams`: stored
    streams of answers. `conversations`: with their turns. `contents`: of workspaces that keep content for a limited
    time, the rows that were deleted or emptied, by workspace and table.
    """

    answers: int
    prompts: int
    summaries: int = 0
    events: int = 0
    requests: int = 0
    streams: int = 0
    conversations: int = 0
    results: dict[str, int] = Field(default_factory=dict)
    contents: dict[str, dict[str, int]] = Field(default_factory=dict)
