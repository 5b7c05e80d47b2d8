"""What was spent, charged and saved, in the words of the reports."""

from decimal import Decimal
from uuid import UUID

from parley.domain.model import Model


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
        """Whether any of it was answered by the simulator, which is not paid."""
        return any(line.simulated for line in self.lines)


class Disagreement(Model):
    """One place where the ledger contradicts itself."""

    check: str
    workspace_id: str
    subject: str
    expected: str
    found: str


class BilledAttempt(Model):
    """What a provider's own list says of one attempt. `source`: its place in the list.

    Without `attempt_id` it carries none of ours. What the list does not contain is None. `billed` is False for an
    attempt that the list only mentions.
    """

    source: str
    attempt_id: UUID | None = None
    billed: bool = True
    cost_usd: Decimal | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    audio_seconds: Decimal | None = None
