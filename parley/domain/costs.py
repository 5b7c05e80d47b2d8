"""Cost reports and the results of the ledger audit."""

from decimal import Decimal
from uuid import UUID

from parley.domain.model import Model
from parley.domain.requests import Usage


class CostLine(Model):
    """Spending of one provider, model and action.

    `confirmed_usd` equals the provider's own count; `uncertain_usd` the upper bound for lost and unanswered attempts.
    """

    provider: str
    model: str
    action: str
    simulated: bool
    attempts: int
    tokens_total: int
    audio_seconds: Decimal
    confirmed_usd: Decimal
    uncertain_usd: Decimal
    energy_charged: int


class Costs(Model):
    """A cost report with its totals."""

    lines: tuple[CostLine, ...]

    @property
    def confirmed_usd(self) -> Decimal:
        return sum((line.confirmed_usd for line in self.lines), Decimal(0))

    @property
    def uncertain_usd(self) -> Decimal:
        return sum((line.uncertain_usd for line in self.lines), Decimal(0))

    @property
    def energy_charged(self) -> int:
        return sum(line.energy_charged for line in self.lines)

    @property
    def simulated(self) -> bool:
        """Whether the simulator, which is not paid, answered any of it."""
        return any(line.simulated for line in self.lines)


class Disagreement(Model):
    """One place where the ledger contradicts itself."""

    check: str
    workspace_id: str
    subject: str
    expected: str
    found: str


class Correction(Model):
    """An uncertain cost that a provider's list decides. `source`: its place in the list, or that the list lacks it.

    upper_bound_usd: what was booked as uncertain. cost_usd: what is confirmed instead.
    """

    attempt_id: UUID
    source: str
    upper_bound_usd: Decimal
    cost_usd: Decimal
    billed: bool
    usage: Usage = Usage()


class BilledAttempt(Model):
    """One attempt in a provider's list. `source`: its place in the list.

    `attempt_id` is None if the entry has no id of ours. Values that the list does not contain are None. `input_tokens`
    include those that were read from the vendor's prompt cache and written to it. `billed` is False for an attempt that
    is listed but not billed.
    """

    source: str
    attempt_id: UUID | None = None
    billed: bool = True
    cost_usd: Decimal | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    audio_seconds: Decimal | None = None
