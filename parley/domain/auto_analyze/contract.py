"""The contract of `AutoAnalyze`: its input, its result, its progress, and what an operator may ask of it.

Sessions of a run are numbered in the order in which they are processed (`ordinal`): the discovery sample first.
Temporal carries these numbers only; texts and labels stay in PostgreSQL. Rounds and streams are numbered from 1,
everywhere. The discovery has rounds too, with numbers of 0 or less, which are not shown.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from parley.domain.auto_analyze.consistency import Consistency
from parley.domain.auto_analyze.processing import (
    BATCH_PROVIDERS,
    NO_BATCH_API,
    BatchFigures,
    Processing,
    Submissions,
)
from parley.domain.chat import ChatSession, Containment
from parley.domain.model import Model, Text, WorkspaceId
from parley.domain.requests import MAX_WAIT_LIMIT_SECONDS, ByName
from parley.domain.routing import Candidate

WORKFLOW = "AutoAnalyze"
STREAM_WORKFLOW = "AutoAnalyzeStream"
ACTION = "auto_analyze"
# The updates by which an operator controls a run.
PAUSE, RESUME, FINISH, APPROVE, SET_STREAMS = "pause", "resume", "finish", "approve", "set_streams"
DEFAULT_WAIT_LIMIT_SECONDS = 24 * 3600
DEFAULT_REVIEW_LIMIT_SECONDS = 24 * 3600
DEFAULT_BUDGET_USD = Decimal("100.00")
Held = Literal["", "paused", "budget", "review"]
MAX_STREAMS = 64
# Measured with `benchmarks overhead`: see docs/auto-analyze.md.
DEFAULT_MAX_STALENESS = 4
MOST_PROBES = 200
# Each step of a run carries them, so that they are in its history as often.
MOST_INSTRUCTIONS = 1000
# The first round of labels that a run was given, and of those that only a probe has: before and after all rounds.
GIVEN_ROUND, PROBED_ROUND = -1_000_000, 1_000_000


class LabelKind(StrEnum):
    INTENT = "intent"
    TRANSFER_REASON = "transfer_reason"
    DROP_OFF_LOCATION = "drop_off_location"

    @property
    def quote_field(self) -> str:
        """The name of the field with the quote of such a label."""
        return f"{self.value}_quote"


class Phase(StrEnum):
    PREPARE = "prepare"
    DISCOVERY = "discovery"
    PARALLEL = "parallel streams"
    PROBES = "probes"
    CONFLICTS = "conflict resolution"
    REVIEW = "review of merges"
    REASSIGNMENT = "re-assignment"
    FINISH = "finish"


# The phase of a paid request by the first word of its step, as in the request ids above.
PHASE_OF_STEP = {
    "discovery": Phase.DISCOVERY,
    "round": Phase.PARALLEL,
    "probes": Phase.PROBES,
    "conflicts": Phase.CONFLICTS,
    "reassignment": Phase.REASSIGNMENT,
}


class DiscoveryTerms(Model):
    """The size of the discovery sample: a share of the sessions (percent) within bounds (sessions).

    `least_percentage`: the share from which discovery ends early, once new labels have become rare.
    """

    target_percentage: int = Field(default=15, ge=1, le=100)
    least_percentage: int = Field(default=10, ge=1, le=100)
    min_sessions: int = Field(default=50, ge=1)
    max_sessions: int = Field(default=150, ge=1, le=5000)

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        least, most = self.min_sessions, self.max_sessions
        if least > most:
            raise ValueError(f"min_sessions ({least}) is above max_sessions ({most}): lower it")
        return self


class AutoAnalyzeInput(ByName):
    """An imported dataset to label, and how.

    `sessions_per_stream`: the most sessions that a stream labels in a round; None takes all that fit the model's
    context window. `max_staleness`: by how many rounds the labels of a request may be older than those of the round
    before it, so that streams need not wait for each other; 0 waits after each round. It is less in the first rounds:
    a request contains the labels of at least half of the rounds before it. None has no bound: a request
    contains the newest labels, a free stream takes the next batch, and the labels depend on timing. `seed` selects the
    sample: the same seed and the same replies give the same labels, unless `max_staleness` is None.
    `wait_limit_seconds`: how long a step waits for a provider while all are down. `reassign`: look at the intents that
    are in doubt again after merging. `review`: wait for a person to approve the merges before they are applied, for
    `review_limit_seconds` at most; then they are applied as they are.
    `taxonomy`: the labels to start from, by their hash; `closed`: the kinds that take no other label. `since`: the key
    of an earlier job; sessions that it labelled are left out, and its labels are those to start from. `probes`: how
    many sessions are labelled a second time to measure how often streams agree; 0 for none, None for 1%, 5 to 50.
    `fork_of`: the key of the job whose sample and batches this run has. `instructions`: what the operator adds to the
    prompts that label sessions, merge labels, and look at intents again; up to 1,000 characters.
    `processing`: `batch` sends the requests of the streams and of the second look to the provider's batch API, which
    answers within a day at half price; those of the streams contain the labels of the discovery, and no later ones.
    """

    workspace_id: WorkspaceId
    user_id: Text = Field(min_length=1, max_length=200)
    dataset_id: Text
    streams: int = Field(default=8, ge=1, le=MAX_STREAMS)
    sessions_per_stream: int | None = Field(default=None, ge=1, le=100)
    max_staleness: int | None = Field(default=DEFAULT_MAX_STALENESS, ge=0, le=100)
    discovery: DiscoveryTerms = Field(default_factory=DiscoveryTerms)
    seed: int = 7
    budget_usd: Decimal = Field(default=DEFAULT_BUDGET_USD, gt=0, lt=10**12)  # what the ledger can store
    wait_limit_seconds: int = Field(default=DEFAULT_WAIT_LIMIT_SECONDS, gt=0, le=MAX_WAIT_LIMIT_SECONDS)
    reassign: bool = True
    taxonomy: Text | None = None
    closed: tuple[LabelKind, ...] = ()
    since: Text | None = None
    probes: int | None = Field(default=None, ge=0, le=MOST_PROBES)
    fork_of: Text | None = None
    instructions: Text = Field(default="", max_length=MOST_INSTRUCTIONS)
    review: bool = False
    review_limit_seconds: int = Field(default=DEFAULT_REVIEW_LIMIT_SECONDS, gt=0, le=MAX_WAIT_LIMIT_SECONDS)
    processing: Processing = "realtime"
    debug: bool = False
    snapshot: "RunSnapshot | None" = Field(default=None, description="set by the workflow when it continues as new")

    @model_validator(mode="after")
    def _labels_have_one_source(self) -> Self:
        if self.taxonomy is not None and self.since is not None:
            raise ValueError("labels come from a file or from an earlier run, not from both: leave one out")
        if self.closed and self.taxonomy is None and self.since is None:
            raise ValueError("a closed kind needs labels to start from: give them, or leave `closed` out")
        return self

    @model_validator(mode="after")
    def _provider_has_batches(self) -> Self:
        if self.processing == "batch" and self.provider not in (None, *BATCH_PROVIDERS):
            raise ValueError(f"{self.provider.value} {NO_BATCH_API}")
        return self

    @property
    def has_closed_intents(self) -> bool:
        """Whether all intents are known before the first request: no discovery, and no second look."""
        return LabelKind.INTENT in self.closed


class Job(Model):
    """The run that a step belongs to."""

    input: AutoAnalyzeInput
    job_key: str
    workflow_id: str


class Plan(Model):
    """The result of `prepare`: the ranked candidates, and the number of sessions in the discovery sample and in all.

    `discovery_cuts`: how many sessions each request of the discovery has. `least`: from how many on it may end early.
    `copies`: sessions, the last ones in the processing order, whose transcript is that of an earlier one.
    `set_aside_usd`: the part of the budget that is kept for merging labels. `already_labelled`: sessions of the dataset
    that are left out, because an earlier run has labelled them.
    """

    candidates: tuple[Candidate, ...]
    discovery: int
    discovery_cuts: tuple[int, ...] = ()
    least: int = 0
    sessions: int
    copies: int = 0
    already_labelled: int = 0
    set_aside_usd: Decimal = Decimal(0)
    warnings: tuple[str, ...] = ()

    @property
    def requested(self) -> int:
        """The sessions that are sent to a model: all but the copies."""
        return self.sessions - self.copies


class PlannedBatches(Model):
    """How many batches are left to label. `plan`: the number of the newest plan, `streams`: how many it is made for."""

    batches: int
    plan: int
    streams: int
    warnings: tuple[str, ...] = ()


class Aspect(StrEnum):
    """What the second look looks at, in this order: each session by itself, then the sessions that are near copies."""

    ALONE = "alone"
    NEAR_COPIES = "near copies"


class ReassignmentPlan(Model):
    """The batches of an aspect: their numbers begin with `first`, and end before `batches`."""

    aspect: Aspect = Aspect.ALONE
    first: int = 0
    batches: int


class Statistics(Model):
    """The counters of a run.

    `conflicts_found`: labels that a reply called duplicates, also where the reply could not be used, and labels that
    are only written differently.
    `conflicts_resolved`: labels that were mapped to a canonical one, by kind in `canonical_mappings`.
    `kept_apart`: labels that a reply called duplicates, and whose examples differ.
    `unmerged_chunks`: comparisons without a usable reply. `refused`: sessions that every provider refused.
    `copies`: sessions that have the labels of another one with the same transcript, and were not sent to a model.
    `labels_left_out`: the most known labels that a request had no room for, because the context window is small.
    `given_labels`: labels that the run started from. `outside`: labels in replies that a closed kind does not have; the
    session was asked again, and then got "other". `already_labelled`: sessions that are left out, because the earlier
    run of `since` has labelled them.
    `looked_at`: sessions whose intent was in doubt and was looked at again, those in doubt by themselves and as near
    copies twice. `reassigned`: sessions that got another one.
    `quotes_missing`: labels from replies without a quote that is in their session. `reviewed`: whether a person
    approved the merges; None for a run without a review.
    `consistency`: None for a run that ended early. `batch`: None for a run that asked nothing in batches.
    `stream_utilisation`: the time that streams spent on batches, as a share from 0 to 1. `cost_usd`: of all paid
    requests, uncertain cost included. `warnings`: the last three.
    `cached_tokens`: those of prompts that vendors had cached, which cost less; `prompt_cache_saved_usd`: how much less,
    below 0 where writing to the cache cost more.
    """

    sessions: int = 0
    discovery_sessions: int = 0
    labelled: int = 0
    fallbacks: int = 0
    copies: int = 0
    labels_left_out: int = 0
    refused: int = 0
    rounds: int = 0
    sync_points: int = 0
    stream_utilisation: float = 0.0
    retries: int = 0
    stream_failures: int = 0
    degraded: bool = False
    invented: int = 0
    given_labels: int = 0
    outside: int = 0
    already_labelled: int = 0
    unique_labels: dict[LabelKind, int] = Field(default_factory=dict)
    canonical_labels: dict[LabelKind, int] = Field(default_factory=dict)
    canonical_mappings: dict[LabelKind, int] = Field(default_factory=dict)
    conflicts_found: int = 0
    conflicts_resolved: int = 0
    kept_apart: int = 0
    unmerged_chunks: int = 0
    looked_at: int = 0
    reassigned: int = 0
    quotes_missing: int = 0
    reviewed: bool | None = None
    consistency: Consistency | None = None
    batch: BatchFigures | None = None
    tokens_by_phase: dict[Phase, int] = Field(default_factory=dict)
    cached_tokens: int = 0
    prompt_cache_saved_usd: Decimal = Decimal(0)
    cost_usd: Decimal = Decimal(0)
    warnings: tuple[str, ...] = ()


class StreamProgress(Model):
    """A stream: its round, the sessions that it has taken, those of them that are labelled, and what it waits for."""

    stream: int
    round: int = 0
    sessions: int
    done: int = 0
    waiting: str = ""


class ReadProgress(Model):
    """Read what the streams have done. `sized_for`: the model that most prompts are made for."""

    job: Job
    sized_for: str


class RunProgress(Model):
    """What the streams of a run have done. `streams`: of each, its number, its round, and the sessions that it has
    taken and labelled: a row instead of a model, so that 64 streams fit 2 KB.

    `left_out`: known labels that a prompt has no room for. `cached_tokens`: of prompts, in the vendors' caches.
    """

    labelled: int
    rounds: int
    new_labels: int
    left_out: int
    tokens: int
    cached_tokens: int
    cost_usd: Decimal
    streams: tuple[tuple[int, int, int, int], ...]


class PauseRun(Model):
    """Start no further request until the run is resumed. Requests in flight are finished."""


class ResumeRun(Model):
    """Go on, after a pause or with a budget that was used up. `budget_usd`: the new budget in USD; None: as before."""

    budget_usd: Decimal | None = Field(default=None, gt=0, lt=10**12)


class FinishRun(Model):
    """Label no further session: merge the labels that there are, and end as completed."""


class SetStreams(Model):
    """Label what is left with so many parallel streams."""

    streams: int = Field(ge=1, le=MAX_STREAMS)


class RunControls(Model):
    """What controls a run. `held`: why it makes no request, `paused`, `budget` or `review`; empty while it works.

    `finishing`: it labels no further session. `streams`: how many label sessions at the same time.
    """

    held: Held = ""
    finishing: bool = False
    budget_usd: Decimal
    streams: int


class SetBudget(Model):
    """Set the budget of a run, in USD. `set_aside_usd`: the part of it that merging has, and no other phase."""

    job: Job
    budget_usd: Decimal
    set_aside_usd: Decimal = Decimal(0)


class BudgetIsSet(Model):
    """The budget of a run was set."""


class AutoAnalyzeProgress(Model):
    """The progress of a run. `rate`: sessions per second so far. `held`: see `RunControls`.

    `parallel_streams`: how many streams label sessions, or will; `streams`: those that do.
    `seconds_left`: the time that labelling still takes at the pace of the current phase; None if unknown.
    `batch`: what was asked in batches; None if nothing was.
    """

    phase: Phase
    discovery_total: int = 0
    sessions_total: int = 0
    sessions_done: int = 0
    rounds: int = 0
    parallel_streams: int = 0
    streams: tuple[StreamProgress, ...] = ()
    new_labels: int = 0
    tokens: int = 0
    cached_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    rate: float = 0.0
    seconds_left: float | None = None
    batch: BatchFigures | None = None
    degraded: bool = False
    warnings: int = 0
    held: Held = ""
    note: str = ""


class AutoAnalyzeResult(Model):
    """The result of a run. Labels and sessions are stored under `job_key`."""

    job_key: str
    status: Literal["completed"]
    statistics: Statistics


class LabelCount(Model):
    kind: LabelKind
    label: str
    sessions: int


class LabelledChat(Model):
    """A chat session with a label. `position`: its place in the file. `original`: the label that it was given first.

    `quote`: words of the session that show the label; None if the reply named none that it has.
    """

    position: int
    session: ChatSession
    original: str | None
    quote: str | None = None
    summary: str
    fallback: bool
    by_rule: bool


class MergeStep(Model):
    """One merge of a label: on which level of conflict resolution, and into which label."""

    level: int
    into: str


class LabelOrigin(Model):
    """A label that became a canonical one. `first_round`: which round found it; 0 or less for the discovery.

    It is `GIVEN_ROUND` for a label that the run started from, and `PROBED_ROUND` for one that only a probe has.
    """

    label: str
    first_round: int
    merges: tuple[MergeStep, ...] = ()

    @property
    def found(self) -> str:
        """Where the label comes from, in words."""
        known = {GIVEN_ROUND: "given", PROBED_ROUND: "probe"}
        return known.get(self.first_round) or (f"round {self.first_round}" if self.first_round > 0 else "discovery")


class ExportedSession(Model):
    """One labelled session as it is exported: its canonical labels and the original ones.

    `…_quote`: words of the session that show the label; None if the reply named none that the session has.
    `reassigned_from`: the intent that it had after merging, if the second look gave it another one. `round` and
    `stream` labelled it, both counted from 1; they are None for a session of the discovery. `by_rule`: it has no user
    text and was labelled without a model.
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
    intent_quote: str | None = None
    transfer_reason_quote: str | None = None
    drop_off_location_quote: str | None = None
    reassigned_from: str | None = None
    fallback: bool
    by_rule: bool
    phase: str | None
    round: int | None
    stream: int | None


class RunSnapshot(Model):
    """The state that one segment of a run passes to the next when it continues as new.

    `planned`: the batches of the streams; None before they are cut. `sequential`: the batches that are left are
    labelled one after the other. `labelled_by_streams`: sessions, with copies. `kinds_resolved`: those whose labels
    are compared. `probed`: probes are asked. `reassignment`: None before labels are merged. `next_reassignment`: the
    next batch of it.
    `refused_in_a_row`: sessions refused since one was labelled. `failures_in_a_row`: streams that failed since one had
    labelled a session. `submissions`: to a batch API.
    """

    plan: Plan
    started_at: AwareDatetime
    discovery_steps: int
    next_ordinal: int
    discovered: int
    planned: PlannedBatches | None
    sequential: bool
    parallel_streams: int
    labelled_by_streams: int
    kinds_resolved: tuple[LabelKind, ...]
    refused_in_a_row: int
    paused: bool
    finishing: bool
    budget_usd: Decimal
    rounds: int
    busy_seconds: float
    capacity_seconds: float
    retries: int
    stream_failures: int
    failures_in_a_row: int = 0
    degraded: bool
    probed: bool
    invented: int
    outside: int
    refused: int
    new_labels: int
    labels_left_out: int
    conflicts_found: int
    kept_apart: int
    unmerged_chunks: int
    canonical_labels: dict[LabelKind, int]
    canonical_mappings: dict[LabelKind, int]
    reviewed: bool | None = None
    reassignment: ReassignmentPlan | None
    next_reassignment: int
    looked_at: int
    reassigned: int
    tokens: int
    cached_tokens: int
    cost_usd: Decimal
    warnings: int
    last_warnings: tuple[str, ...]
    phase: Phase
    rate: float
    seconds_left: float | None
    submissions: Submissions = Submissions()


def workflow_id(workspace_id: str, dataset_id: str, run_name: str = "") -> str:
    """One workflow id per dataset: starting it twice returns the running job. `run_name` distinguishes two runs."""
    return "/".join(part for part in ("auto-analyze", workspace_id, dataset_id[:16], run_name) if part)


AutoAnalyzeInput.model_rebuild()
