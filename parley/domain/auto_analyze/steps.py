"""What a labelling run hands to its steps and its streams, and what they return.

The request ids of a run. `{digest}` covers what the prompt depends on, `{model}` is the model that the prompt is sized
for (`for-any` where it is sized for an unknown model), and `ask` is 1 for the first request and counts up as it is
repeated because its reply could not be used:

    {job_key}/discovery/sessions-{first}-{last}/ask-{ask}/{digest}
    {job_key}/round-{round}/sessions-{first}-{last}/ask-{ask}/{digest}
    {job_key}/round-{round}/condense/{ordinal}/for-{model}/part-{part}
    {job_key}/probes/round-{round}/sessions-{first}-{last}/ask-{ask}/{digest}
    {job_key}/conflicts/{kind}/level-{level}/for-{model}/chunk-{chunk}/ask-{ask}
    {job_key}/reassignment/batch-{batch}/for-{model}/part-{part}
"""

import hashlib
from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from pydantic import Field

from parley.domain.auto_analyze.contract import Aspect, Job, LabelKind, Phase, Statistics
from parley.domain.model import Model, Text
from parley.domain.routing import Candidate

MAX_ASKS = 3


class Batch(Model):
    """The ordinals `start` to `start + count - 1`: the sessions that one stream labels in one round.

    `number`: its place among the batches of the streams, from 0; None for a batch of the discovery.
    """

    number: int | None = None
    round: int
    stream: int
    start: int
    count: int

    @property
    def ordinals(self) -> tuple[int, ...]:
        return tuple(range(self.start, self.start + self.count))


class PlanBatches(Model):
    """Cut the sessions from the ordinal `start` on into batches, and assign each to a round.

    `plan`: its number, from 1. A later plan, for another number of `streams`, keeps the rounds that have begun.
    """

    job: Job
    candidate: Candidate
    start: int
    end: int
    plan: int
    streams: int


class TakeBatches(Model):
    """Up to `most` of the next batches to label; or the one of a `stream`, which takes the next free one."""

    job: Job
    stream: int | None
    most: int


class TakenBatches(Model):
    """The batches to label, in their order; empty if none is left."""

    batches: tuple[Batch, ...]


class Saturation(Model):
    """`coverage`: the estimated probability, from 0 to 1, that the labels of the next session are known already."""

    coverage: float


class BatchStep(Model):
    """A step on sessions of a batch, which belongs to a round and is taken by a stream.

    `ends`: the number of the batch that is complete when all of these sessions are labelled; None if more follow.
    `takes_next`: the stream takes the next free batch in the transaction that completes this one.
    """

    job: Job
    phase: Phase
    round: int
    stream: int
    ordinals: tuple[int, ...]
    ends: int | None = None
    takes_next: bool = False

    @property
    def horizon(self) -> int | None:
        """The last round whose labels the request contains; None for the newest labels. Discovery is known to all."""
        if self.phase is Phase.DISCOVERY:
            return self.round - 1
        if self.job.input.processing == "batch":
            return 0
        staleness = self.job.input.max_staleness
        if staleness is None:
            return None
        # The first rounds find most labels: a request has those of at least half of the rounds before it.
        return self.round - 1 - min(staleness, (self.round - 1) // 2)


class ClassifyStep(BatchStep):
    """Label these sessions in one request.

    `sized_for`: the model whose context window the prompt is made for. It may differ from the candidate's model,
    because all attempts of a paid request send the same prompt.
    """

    candidate: Candidate
    ask: int = 1
    sized_for: str

    def request_step(self, condensed: Sequence[int]) -> str:
        """The request id within the job. It covers all that the prompt depends on, so that two prompts never share it.

        `condensed`: the ordinals of sessions whose summary replaces the transcript in the prompt.
        """
        prompt = f"{self.sized_for}/{self.ordinals}/{tuple(condensed)}"
        digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
        place = _place(self.phase, self.round)
        return f"{place}/sessions-{self.ordinals[0]}-{self.ordinals[-1]}/ask-{self.ask}/{digest}"


class FallbackStep(BatchStep):
    """Give these sessions the fallback labels, marked as such."""


class CondenseStep(Model):
    """Condense a session that is larger than the context window, in parts that fit the model `sized_for`."""

    job: Job
    candidate: Candidate
    phase: Phase
    round: int
    ordinal: int
    sized_for: str

    def request_step(self, part: int) -> str:
        return f"{_place(self.phase, self.round)}/condense/{self.ordinal}/{_sized(self.sized_for)}/part-{part}"


def _place(phase: Phase, round_number: int) -> str:
    """The first part of a request id within the job. Storage counts tokens by it."""
    if phase is Phase.DISCOVERY:
        return "discovery"
    return f"probes/round-{round_number}" if phase is Phase.PROBES else f"round-{round_number}"


def _sized(model: str) -> str:
    return f"for-{model}" if model else "for-any"


class StepUsage(Model):
    """What a paid step used: the provider's token counts, and their cost at our prices."""

    tokens: int = 0
    cost_usd: Decimal = Decimal(0)


class RequestOutcome(StepUsage):
    """The outcome of a paid step. `too_long_for`: a model whose context window is too small for the request.

    `refused`: the providers' messages, if every provider refused this request. `problem`: why the reply cannot be used;
    empty if it can.
    """

    too_long_for: str = ""
    refused: str = ""
    problem: str = ""


class ClassifyOutcome(RequestOutcome):
    """The outcome of a request for labels.

    `missing`: ordinals without usable labels. `oversized`: ordinals to condense first; no request was sent.
    `waits_for`: a stream whose labels the request must contain, and that has not found them yet; none was sent.
    `outside`: labels of closed kinds that are none of theirs.
    `waited_seconds`: how long the step waited for them. `left_out`: known labels that the prompt had no room for.
    `next_batch`: the batch that the stream has taken.
    """

    labelled: int = 0
    missing: tuple[int, ...] = ()
    oversized: tuple[int, ...] = ()
    waits_for: int | None = None
    waited_seconds: float = 0.0
    new_labels: int = 0
    invented: int = 0
    outside: int = 0
    left_out: int = 0
    next_batch: Batch | None = None


class ResolveStep(Model):
    """Find duplicates in one chunk of the labels of a kind. `chunk`: its number within `level`, from 0."""

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


class ResolveOutcome(RequestOutcome):
    """`found`: how many labels the reply calls duplicates.

    `merged`: how many of them are merged. `kept_apart`: how many are not, because their examples differ.
    """

    found: int = 0
    merged: int = 0
    kept_apart: int = 0


class ConflictPlan(Model):
    """How many labels of a kind are compared on a level, and in how many chunks.

    `spelled_alike`: labels that were merged because they are only written differently.
    """

    labels: int
    chunks: int
    spelled_alike: int = 0


class PlanConflicts(Model):
    """Cut the labels of a kind into chunks for a level."""

    job: Job
    kind: LabelKind
    level: int
    sized_for: str


class ProposeMerges(Model):
    """Make the first version of the label map, which is not applied before it is reviewed."""

    job: Job


class ProposedMerges(Model):
    """How many labels would be merged into another one."""

    merges: int


class ApproveLabels(Model):
    """Apply the labels of a version of the map, with all that was changed in it. `made_by`: who approves."""

    version: int = Field(ge=0)
    made_by: Text = Field(min_length=1, max_length=200)


class ApproveStep(Model):
    """Record that a version of the label map is approved."""

    job: Job
    given: ApproveLabels


class LabelsApproved(Model):
    """`version`: the one that records the approval."""

    version: int


class ApplyConflicts(Model):
    """Write the canonical labels of all kinds to all sessions, in one transaction.

    `reviewed`: whether a person has approved them; None for a run without a review.
    """

    job: Job
    reviewed: bool | None = None


class AppliedConflicts(Model):
    """How many canonical labels each kind has, and how many labels were mapped to another one."""

    canonical_labels: dict[LabelKind, int]
    canonical_mappings: dict[LabelKind, int]


class PlanProbes(Model):
    """Choose the sessions that are labelled a second time, from those before the ordinal `end`.

    `rounds`: of the streams.
    """

    job: Job
    end: int
    rounds: int


class Probes(Model):
    """The sessions that are labelled a second time: by request, the round in whose place it is, and their ordinals."""

    batches: tuple[tuple[int, tuple[int, ...]], ...]


class PlanReassignment(Model):
    """Put the sessions that are looked at again into batches, with the labels that they have by now."""

    job: Job
    aspect: Aspect = Aspect.ALONE


class ReadLooks(Model):
    """Read which batches are still to be looked at, up to `most`, from those after the number `after`."""

    job: Job
    after: int
    most: int


class LooksLeft(Model):
    """Their numbers, in their order."""

    batches: tuple[int, ...]


class ReassignStep(Model):
    """Look again at the intents of one batch of sessions that are in doubt. `sized_for`: as in `ClassifyStep`."""

    job: Job
    candidate: Candidate
    batch: int
    sized_for: str
    aspect: Aspect = Aspect.ALONE

    def request_step(self, part: int) -> str:
        return f"reassignment/batch-{self.batch}/{_sized(self.sized_for)}/part-{part}"


class ReassignOutcome(RequestOutcome):
    """How many sessions were looked at, and how many get another label. `problem`: of the last reply without use."""

    looked_at: int = 0
    better: int = 0

    def plus(self, other: "ReassignOutcome") -> "ReassignOutcome":
        """The outcome of both."""
        summed = {name: getattr(self, name) + getattr(other, name) for name in SUMMED_OF_LOOKS}
        return ReassignOutcome(**summed, problem=other.problem or self.problem)


SUMMED_OF_LOOKS = ("tokens", "cost_usd", "looked_at", "better")


class ApplyReassignment(Model):
    """Give the sessions their better labels, in one transaction."""

    job: Job


class AppliedReassignment(Model):
    """How many sessions have another intent than after merging, and how many intents are left."""

    sessions: int
    intents: int


class BatchReport(StepUsage):
    """The counters of work on batches.

    `refused`: sessions that every provider refused, `refusal`: the message of the last refusal. `seconds`: the time
    spent on them, without waiting for other streams. `left_out`: the most known labels that a prompt had no room for.
    """

    labelled: int = 0
    new_labels: int = 0
    invented: int = 0
    outside: int = 0
    retries: int = 0
    refused: int = 0
    refusal: str = ""
    seconds: float = 0.0
    left_out: int = 0

    def plus(self, other: "BatchReport") -> "BatchReport":
        """The sum of both."""
        summed = {name: getattr(self, name) + getattr(other, name) for name in COUNTED}
        most = max(self.left_out, other.left_out)
        return BatchReport(**summed, refusal=other.refusal or self.refusal, left_out=most)


COUNTED = frozenset(BatchReport.model_fields) - {"refusal", "left_out"}


class StreamInput(Model):
    """One stream. It takes its batches from the plan.

    `refused_in_a_row`: sessions that were refused since the last one that was labelled. `so_far`: the counters of the
    stream's earlier runs, set by the stream as it continues as new.
    """

    job: Job
    candidates: tuple[Candidate, ...]
    stream: int
    refused_in_a_row: int = 0
    so_far: BatchReport = Field(default_factory=BatchReport)


class StreamEnd(StrEnum):
    """Why a stream ended.

    DONE: none of its batches is left, or the run asked it to end. OVER_BUDGET: concurrent requests had reserved the
    rest of the budget. CANCELLED: its requests in flight are counted.
    """

    DONE = "done"
    OVER_BUDGET = "over budget"
    CANCELLED = "cancelled"


class StreamReport(Model):
    """The result of a stream: why it ended, its counters, and the sessions in a row that were refused last."""

    stream: int
    end: StreamEnd
    counted: BatchReport
    refused_in_a_row: int


class EndStream(Model):
    """Parent to stream: end after the batch at hand. `reason`: for those who read the history."""

    reason: str


class StreamWaiting(Model):
    """Stream to parent: all providers are down, and the stream waits until one answers."""

    stream: int
    waiting: str = Field(max_length=200)


class CopyLabels(Model):
    """Give the copies of a transcript the labels of the session that was sent to a model."""

    job: Job


class FinishStep(Model):
    """Store the statistics of a completed run."""

    job: Job
    statistics: Statistics


class CloseStep(Model):
    """Store the statistics of a run that failed or was cancelled."""

    job: Job
    status: Literal["failed", "cancelled"]
    reason: str
    statistics: Statistics
