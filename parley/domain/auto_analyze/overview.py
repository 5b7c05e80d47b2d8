"""A labelling run at a glance: what its report draws, and figures that say how far its labels can be trusted."""

import re
from collections import Counter
from datetime import datetime
from decimal import Decimal

from parley.domain.auto_analyze.comparison import RunComparison
from parley.domain.auto_analyze.consistency import CATCH_ALL_SHARE, Consistency
from parley.domain.auto_analyze.contract import LabelCount, LabelKind, Statistics
from parley.domain.auto_analyze.drift import KindDrift
from parley.domain.chat import Containment
from parley.domain.costs import Costs
from parley.domain.model import Model

NOT_A_LETTER = re.compile(r"[\W_]+")


class Flow(Model):
    """How many sessions have an intent, a containment and a drop-off location."""

    intent: str
    containment: Containment
    drop_off_location: str | None
    sessions: int


class NewLabels(Model):
    """How many labels of all kinds a round found first. `round`: 0 is the discovery."""

    round: int
    labels: int


class PhaseCost(Model):
    """The paid attempts of a phase of a run: its tokens and its cost in USD, confirmed and uncertain.

    cached_tokens: those of prompts that vendors had cached. prompt_cache_saved_usd: what that saved.
    """

    phase: str
    attempts: int
    tokens: int
    cached_tokens: int = 0
    prompt_cache_saved_usd: Decimal = Decimal(0)
    confirmed_usd: Decimal
    uncertain_usd: Decimal


class EarlierRun(Model):
    """The run that a run goes on from.

    name: of its file. sessions: of this run's file that it, or one before it, has labelled. drift: of this run's
    labels against its labels.
    """

    id: str
    job_key: str
    name: str
    created_at: datetime
    sessions: int
    drift: tuple[KindDrift, ...]


class RunOverview(Model):
    """A labelling run as it is now: its labels, where sessions go, what it cost, and how consistent it is.

    Attributes:
        name: of the file that was imported.
        reason: why it failed or was cancelled.
        labelled: sessions with an intent. `fallbacks`: those of them that no reply labelled.
        flows: all combinations that occur, the most frequent first.
        new_labels: of the discovery and of each round that found one.
        consistency: the figures of its intents.
        since: the run that it goes on from; None for a run on its own.
        compared: a completed fork with the run that it repeats; None for other runs, and where that one is purged.
    """

    id: str
    job_key: str
    name: str
    status: str
    reason: str = ""
    created_at: datetime
    ended_at: datetime | None
    sessions: int
    labelled: int
    fallbacks: int
    labels: tuple[LabelCount, ...]
    statistics: Statistics | None
    flows: tuple[Flow, ...]
    new_labels: tuple[NewLabels, ...]
    phases: tuple[PhaseCost, ...]
    consistency: Consistency
    costs: Costs
    since: EarlierRun | None = None
    compared: RunComparison | None = None

    def of_kind(self, kind: LabelKind) -> list[LabelCount]:
        """The labels of a kind, the most frequent first."""
        return [line for line in self.labels if line.kind is kind]

    @property
    def intents(self) -> list[LabelCount]:
        return self.of_kind(LabelKind.INTENT)

    @property
    def catch_alls(self) -> list[LabelCount]:
        """Intents that a large share of the sessions has."""
        return [line for line in self.intents if line.sessions > CATCH_ALL_SHARE * max(self.labelled, 1)]

    @property
    def spelled_alike(self) -> int:
        """Intents that differ from another one in case, blanks or signs only."""
        spelled = Counter(NOT_A_LETTER.sub("", line.label.casefold()) for line in self.intents)
        return sum(count - 1 for count in spelled.values())


class QuotedSession(Model):
    """A session with its canonical labels and the quotes that show them.

    `quote`: of its intent. `ending_quote`: of its transfer reason or its drop-off location. Empty without one.
    """

    session_id: str
    user_id: str
    containment: Containment
    intent: str | None
    transfer_reason: str | None
    drop_off_location: str | None
    summary: str
    quote: str
    ending_quote: str = ""
    fallback: bool
    by_rule: bool
