"""The contract of `AutoAnalyze`: what goes in, what comes out, and what travels between its parts.

Sessions of a run are numbered in the order in which they are processed (`ordinal`): the discovery sample first. What
travels through Temporal are such numbers; texts and labels stay in PostgreSQL.
"""

import hashlib
from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from parley.domain.chat import Containment
from parley.domain.model import Model
from parley.domain.requests import LONGEST_PATIENCE_SECONDS, ByName
from parley.domain.routing import Candidate

WORKFLOW = "AutoAnalyze"
STREAM_WORKFLOW = "AutoAnalyzeStream"
ACTION = "auto_analyze"
DEFAULT_PATIENCE_SECONDS = 24 * 3600
DEFAULT_BUDGET_USD = Decimal("100.00")
MAX_ASKS = 3


class LabelKind(StrEnum):
    INTENT = "intent"
    TRANSFER_REASON = "transfer_reason"
    DROP_OFF_LOCATION = "drop_off_location"


class Phase(StrEnum):
    PREPARE = "prepare"
    DISCOVERY = "discovery"
    PARALLEL = "parallel streams"
    CONFLICTS = "conflict resolution"
    FINISH = "finish"


class DiscoveryTerms(Model):
    """How large the discovery sample is: a share of the sessions within bounds."""

    target_percentage: int = Field(default=15, ge=1, le=100)
    min_sessions: int = Field(default=50, ge=1)
    max_sessions: int = Field(default=150, ge=1, le=5000)

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        least, most = self.min_sessions, self.max_sessions
        if least > most:
            raise ValueError(f"min_sessions ({least}) is above max_sessions ({most})")
        return self


class AutoAnalyzeInput(ByName):
    """What to analyse, by reference to an imported dataset.

    `sessions_per_stream`: the quota of a stream in a round; None takes all that fit the model's context window.
    `seed` decides the sample: the same seed and the same replies give the same labels.
    """

    workspace_id: str = Field(min_length=1, max_length=200)
    user_id: str = Field(min_length=1, max_length=200)
    dataset_id: str
    streams: int = Field(default=8, ge=1, le=64)
    sessions_per_stream: int | None = Field(default=4, ge=1, le=100)
    discovery: DiscoveryTerms = Field(default_factory=DiscoveryTerms)
    seed: int = 7
    budget_usd: Decimal = Field(default=DEFAULT_BUDGET_USD, gt=0)
    patience_seconds: int = Field(default=DEFAULT_PATIENCE_SECONDS, gt=0, le=LONGEST_PATIENCE_SECONDS)
    debug: bool = False
    carried: "Carried | None" = Field(default=None, description="set by the workflow as it continues as new")


class Job(Model):
    """A run, as every step knows it."""

    input: AutoAnalyzeInput
    job_key: str
    workflow_id: str


class Plan(Model):
    """What `prepare` found: who may serve, and how many sessions there are to discover on and in all."""

    candidates: tuple[Candidate, ...]
    discovery: int
    sessions: int
    warnings: tuple[str, ...] = ()


class Batch(Model):
    """The ordinals `start` to `start + count - 1`: what one stream takes in one round."""

    start: int
    count: int


class Round(Model):
    """A round's batches, one per stream that has work; `next_ordinal` is where the next round starts."""

    number: int
    batches: tuple[Batch, ...]
    next_ordinal: int


class OpenRound(Model):
    """Ask for the batches of a round."""

    job: Job
    candidate: Candidate
    number: int
    start: int
    streams: int


class BatchStep(Model):
    """Sessions that a stream labels in a round."""

    job: Job
    phase: Phase
    round: int
    stream: int
    ordinals: tuple[int, ...]


class ClassifyStep(BatchStep):
    """Label these sessions in one request.

    `sized_for`: the model whose window the prompt is made for; it need not be the candidate's, since fallback legs must
    ask the same thing.
    """

    candidate: Candidate
    ask: int = 1
    sized_for: str

    def request_step(self, condensed: Sequence[int]) -> str:
        """The request's name. It tells all that the prompt depends on, of which `condensed` are the ordinals of
        sessions that stand in it by their summary: so another prompt never comes under the same name."""
        asked = f"{self.sized_for}/{self.ordinals}/{tuple(condensed)}"
        digest = hashlib.sha256(asked.encode()).hexdigest()[:8]
        return f"round-{self.round}/sessions-{self.ordinals[0]}-{self.ordinals[-1]}/ask-{self.ask}/{digest}"


class GiveUpStep(BatchStep):
    """Give these sessions the fallback classification, marked."""


class CondenseStep(Model):
    """Summarise a session that is larger than the context window, in parts that are cut for `sized_for`."""

    job: Job
    candidate: Candidate
    ordinal: int
    sized_for: str

    def request_step(self, part: int) -> str:
        return f"condense/{self.ordinal}/{_sized(self.sized_for)}/part-{part}"


def _sized(model: str) -> str:
    return f"for-{model}" if model else "for-any"


class UsedByStep(Model):
    """What a paid step used. Cost is the provider's count at our price."""

    tokens: int = 0
    cost_usd: Decimal = Decimal(0)


class AskOutcome(UsedByStep):
    """How far asking came. `too_long_for`: the model that what was asked does not fit: ask for less at once.

    `refused`: what the providers said, where every one of them refused just this request.
    """

    too_long_for: str = ""
    refused: str = ""


class ClassifyOutcome(AskOutcome):
    """What came of a batch.

    `missing`: ordinals whose labels cannot be used. `oversized`: those to condense before anything is asked.
    """

    labelled: int = 0
    missing: tuple[int, ...] = ()
    oversized: tuple[int, ...] = ()
    new_labels: int = 0
    invented: int = 0


class ResolveStep(Model):
    """Ask for duplicates among the labels of one kind. `chunk` counts from 0 within `level`, cut for `sized_for`."""

    job: Job
    candidate: Candidate
    kind: LabelKind
    level: int
    chunk: int
    ask: int = 1
    sized_for: str

    @property
    def request_step(self) -> str:
        cut = f"level-{self.level}/{_sized(self.sized_for)}/chunk-{self.chunk}"
        return f"conflicts/{self.kind.value}/{cut}/ask-{self.ask}"


class ResolveOutcome(AskOutcome):
    """`found`: labels that the reply calls duplicates. `problem`: why it cannot be used all the same, if it cannot."""

    problem: str = ""
    found: int = 0


class ConflictPlan(Model):
    """How many labels of a kind there are to compare on a level, and in how many chunks."""

    labels: int
    chunks: int


class PlanConflicts(Model):
    job: Job
    kind: LabelKind
    level: int
    sized_for: str


class ApplyConflicts(Model):
    """Write the canonical labels of all kinds to all sessions, in one transaction."""

    job: Job


class AppliedConflicts(Model):
    """How many labels are left of each kind, and how many now go by the name of another."""

    canonical_labels: dict[LabelKind, int]
    canonical_mappings: dict[LabelKind, int]


class StreamInput(Model):
    """One stream of a segment: it labels the batches that it is told of until it is told to stop."""

    job: Job
    candidates: tuple[Candidate, ...]
    stream: int


class GoSignal(Model):
    """Parent to stream: take this batch. None ends the stream."""

    round: int
    batch: Batch | None


class Ending(StrEnum):
    """How a stream's work on a batch ended: to the end, for want of money that other calls hold, or before the end."""

    DONE = "done"
    UNAFFORDABLE = "unaffordable"
    STOPPED = "stopped"


class BatchReport(UsedByStep):
    """What a stream made of its batch, in numbers.

    `refused`: sessions that every provider refused, and `refusal` what was said of one. `tired`: the stream's history
    has grown long.
    """

    stream: int
    round: int
    ending: Ending = Ending.DONE
    labelled: int = 0
    new_labels: int = 0
    invented: int = 0
    retries: int = 0
    refused: int = 0
    refusal: str = ""
    seconds: float = 0.0
    tired: bool = False


class StreamParked(Model):
    """Stream to parent: it waits for a provider to come back."""

    stream: int
    waiting: str = Field(max_length=200)


class Statistics(Model):
    """What a run reports.

    `conflicts_found`: labels that a reply called duplicates of another, also in a reply that could not be used.
    `conflicts_resolved`: labels that go by another's name in the end, by kind in `canonical_mappings`.
    `unmerged_chunks`: comparisons without any usable reply. `refused`: sessions that every provider refused.
    """

    sessions: int = 0
    discovery_sessions: int = 0
    labelled: int = 0
    fallbacks: int = 0
    refused: int = 0
    rounds: int = 0
    sync_points: int = 0
    stream_utilisation: float = 0.0
    retries: int = 0
    stream_failures: int = 0
    degraded: bool = False
    invented: int = 0
    unique_labels: dict[LabelKind, int] = Field(default_factory=dict)
    canonical_labels: dict[LabelKind, int] = Field(default_factory=dict)
    canonical_mappings: dict[LabelKind, int] = Field(default_factory=dict)
    conflicts_found: int = 0
    conflicts_resolved: int = 0
    unmerged_chunks: int = 0
    tokens_by_phase: dict[Phase, int] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class StreamProgress(Model):
    """A stream in the current round: its batch, how much of it is labelled, and what it waits for, if it waits."""

    stream: int
    sessions: int
    done: int = 0
    waiting: str = ""


class AutoAnalyzeProgress(Model):
    """Where a run stands. `rate`: sessions a second so far.

    `seconds_left`: for labelling, at the pace of the current phase; None where it cannot be told.
    """

    phase: Phase
    discovery_total: int = 0
    sessions_total: int = 0
    sessions_done: int = 0
    rounds: int = 0
    streams: tuple[StreamProgress, ...] = ()
    new_labels: int = 0
    tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    rate: float = 0.0
    seconds_left: float | None = None
    degraded: bool = False
    warnings: int = 0
    note: str = ""


class AutoAnalyzeResult(Model):
    """The run's outcome in small; labels and sessions are stored under `job_key`."""

    job_key: str
    status: Literal["completed"]
    statistics: Statistics


class LabelCount(Model):
    kind: LabelKind
    label: str
    sessions: int


class ExportedSession(Model):
    """One labelled session as it is handed out: canonical labels, and beside them those first given.

    `round`, from 1, and `stream` are those that labelled it; a session of the discovery has neither.
    """

    session_id: str
    user_id: str
    containment: Containment
    intent: str | None
    transfer_reason: str | None
    drop_off_location: str | None
    summary: str | None
    original_intent: str | None
    original_transfer_reason: str | None
    original_drop_off_location: str | None
    fallback: bool
    by_rule: bool
    phase: str | None
    round: int | None
    stream: int | None


class Carried(Model):
    """What one segment of a run hands to the next.

    `kinds_resolved`: kinds of labels that are compared; `refused_in_a_row`: sessions refused since one was labelled.
    """

    plan: Plan
    started_at: AwareDatetime
    next_round: int = 0
    next_ordinal: int = 0
    kinds_resolved: int = 0
    refused_in_a_row: int = 0
    progress: AutoAnalyzeProgress
    statistics: Statistics = Field(default_factory=Statistics)
    busy_seconds: float = 0.0
    capacity_seconds: float = 0.0


class FinishStep(Model):
    job: Job
    statistics: Statistics


class CloseStep(Model):
    job: Job
    status: Literal["failed", "cancelled"]
    statistics: Statistics


def workflow_id(workspace_id: str, dataset_id: str, run_name: str = "") -> str:
    """One id per dataset: starting it twice returns the running one. A `run_name` keeps two runs apart."""
    return "/".join(part for part in ("auto-analyze", workspace_id, dataset_id[:16], run_name) if part)


AutoAnalyzeInput.model_rebuild()
