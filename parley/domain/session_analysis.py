"""The job `SessionAnalysis`: its contract, its workflow id, and the rules that choose a strategy."""

import hashlib
from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from pydantic import Field

from parley.domain.coaching.contract import Coaching
from parley.domain.coaching.prompts import MAX_TOKENS
from parley.domain.coaching.rubric import DEFAULT_RUBRIC, REFERENCE
from parley.domain.coaching.trends import Trends
from parley.domain.habits import Habits
from parley.domain.hearing import Hearing, Owner
from parley.domain.model import Model, WorkspaceId
from parley.domain.requests import MAX_WAIT_LIMIT_SECONDS, ByName, request_id
from parley.domain.routing import Candidate
from parley.domain.session import Session
from parley.domain.voice_metrics import Curves, VoiceMetrics

WORKFLOW = "SessionAnalysis"
COACHING_ACTION = "session_coaching"
VOICE_ACTION = "session_voice_metrics"
# The energy that a user is charged for a result.
ENERGY = {COACHING_ACTION: 5, VOICE_ACTION: 3}
DEFAULT_BUDGET_USD = Decimal("1.00")
DEFAULT_WAIT_LIMIT_SECONDS = 24 * 3600
# A session of five minutes is transcribed within it.
DEFAULT_VOICE_DEADLINE_SECONDS = 10.0
# What `cost_optimized` reads of a transcript: about a quarter of an hour of speech.
DEFAULT_TRANSCRIPT_TOKENS = 3000
LEAST_TRANSCRIPT_TOKENS = 500
# What is read where the whole transcript does not fit into a model's context.
TOO_LONG_TOKENS = 4000
# Rubrics that the id of an analysis does not name: by name or by version, it is the same analysis.
IDS_WITHOUT_RUBRIC = (DEFAULT_RUBRIC, f"{DEFAULT_RUBRIC}@1")

SHORT_SECONDS = 60
LONG_SECONDS = 300
SIMPLE_TURNS = 20
FREE_TIER, FREE_ANALYSES = "free", 2


class Strategy(StrEnum):
    CACHED_ANALYSIS = "cached_analysis"
    FAST_PARALLEL = "fast_parallel"
    COST_OPTIMIZED = "cost_optimized"
    HYBRID = "hybrid"


class SessionAnalysisInput(ByName):
    """The session to analyse, by reference to stored content.

    session_sha256: empty for a recording alone, which is heard first; `hearing` says how it becomes a session.
    `wait`: while every provider is down or limits the rate, wait for up to `wait_limit_seconds` (default: a day), and
    fail then. By default the job has a rule-based, provisional result at once, and amends it if a provider is available
    within that time. `provider` and
    `model` select one provider and exclude the others. `rubric`: the name of a rubric, or `name@version`.
    `transcript_tokens`: the most tokens of the transcript that `cost_optimized` sends. `voice_deadline_seconds`: how
    long `hybrid` waits for the recording's measures; what comes later amends the result.
    """

    workspace_id: WorkspaceId
    user_id: str = Field(min_length=1, max_length=200)
    prospect_id: str | None = None
    session_id: str = Field(min_length=1, max_length=200)
    session_sha256: str
    recording_sha256: str | None = None
    rubric: str = Field(default=DEFAULT_RUBRIC, pattern=REFERENCE)
    hearing: Hearing | None = None
    wait: bool = False
    wait_limit_seconds: int = Field(default=DEFAULT_WAIT_LIMIT_SECONDS, gt=0, le=MAX_WAIT_LIMIT_SECONDS)
    transcript_tokens: int = Field(default=DEFAULT_TRANSCRIPT_TOKENS, ge=LEAST_TRANSCRIPT_TOKENS, le=1_000_000)
    voice_deadline_seconds: float = Field(
        default=DEFAULT_VOICE_DEADLINE_SECONDS, gt=0, le=MAX_WAIT_LIMIT_SECONDS, allow_inf_nan=False
    )
    budget_usd: Decimal = Field(default=DEFAULT_BUDGET_USD, gt=0, lt=10**12)  # what the ledger can store

    @property
    def owner(self) -> Owner:
        return Owner(session_id=self.session_id, user_id=self.user_id, prospect_id=self.prospect_id)


class SessionAnalysisResult(Model):
    """The summary of an analysis. The whole analysis is stored under `job_key`.

    `cost_usd`: what its paid requests have cost, uncertain cost included.
    """

    job_key: str
    status: Literal["completed"]
    strategy: Strategy
    overall_score: int | None = None
    processed: bool = False
    fallback: bool = False
    cost_usd: Decimal = Decimal(0)


class Step(StrEnum):
    HEAR = "hearing"
    PREPARE = "prepare"
    VOICE = "voice metrics"
    COACHING = "coaching"
    FINISH = "finish"

    @property
    def first_request(self) -> str:
        """The id, within a job, of the step's first request. The user is charged for one of the step's requests."""
        return self.value.replace(" ", "-")


def steps_of(job: SessionAnalysisInput) -> tuple[Step, ...]:
    """The steps of a job in their order: only a recording alone is heard first."""
    return tuple(step for step in Step if step is not Step.HEAR or job.hearing)


class Progress(Model):
    """The progress of an analysis. `note`: what it waits for. `provisional`: it has a result that is amended later."""

    phase: Step
    strategy: Strategy | None = None
    strategy_reason: str = ""
    done: tuple[Step, ...] = ()
    total_steps: int = len(Step) - 1
    note: str = ""
    provisional: bool = False


class Facts(Model):
    """The facts on which the choice of a strategy depends."""

    tier: str
    previous_analyses: int
    duration_seconds: float
    turns: int
    speakers: int


class Choice(Model):
    """The chosen strategy and the reason for it."""

    strategy: Strategy
    reason: str


class Provenance(Model):
    """Which provider and model produced a part of the result. `simulated`: the simulator answered, not the vendor."""

    step: Step
    provider: str
    model: str
    answered_by: str
    simulated: bool
    reason: str = ""


class Reused(Model):
    """The earlier analysis of the same user whose coaching a result has.

    kind: `exact`: of the same content, and the whole result is used; `similar`: of the same conversation, held or
    transcribed again. similarity: of the texts, of 100. cosine: the least one of the passages' vectors.
    """

    kind: Literal["exact", "similar"]
    job_key: str
    session_id: str
    similarity: float = 100.0
    cosine: float = 1.0

    def warning(self) -> str:
        """One line for a reader of a result that was not made for its session."""
        if self.kind == "exact":
            return f"the same content was analysed before: this is the result of analysis {self.job_key} again"
        return (
            f"coaching is that of the similar session {self.session_id!r} ({self.similarity:g}% of the text is the"
            f" same), with the moments and numbers of this one: analysis {self.job_key}"
        )


class Analysis(Model):
    """The whole result as it is stored.

    pending: the steps whose outcome is still to come. With any, the result is provisional: it is amended later.
    reused: where its coaching comes from; None: it was made for it.
    """

    session_id: str
    user_id: str
    strategy: Strategy
    strategy_reason: str
    voice_metrics: VoiceMetrics
    habits: Habits
    coaching: Coaching
    trends: Trends = Field(default_factory=Trends)
    provenance: tuple[Provenance, ...]
    warnings: tuple[str, ...] = ()
    curves: Curves | None = None
    reused: Reused | None = None
    pending: tuple[Step, ...] = ()


class Plan(Model):
    """The result of `prepare`: the strategy and the candidates of each step.

    reused: the analysis that is used again; nothing is paid then. provenance: of the coaching of a similar one.
    collect_seconds: how long the coaching waits for other sessions to share a request; 0: not at all.
    rubric: by which the session is rated, with its version.
    """

    choice: Choice
    coaching: tuple[Candidate, ...]
    voice: Candidate | None = None
    reused: Reused | None = None
    provenance: tuple[Provenance, ...] = ()
    warnings: tuple[str, ...] = ()
    collect_seconds: float = 0
    rubric: str = ""


class HearingPlan(Model):
    """What can hear the recording of a job. `request_id`: of its transcription, which the user's jobs on it share."""

    candidates: tuple[Candidate, ...]
    request_id: str


class PrepareStep(Model):
    """Open the job: its row, its budget, the user's energy account. `heard_by`: what has heard the recording alone."""

    input: SessionAnalysisInput
    job_key: str
    workflow_id: str
    heard_by: Candidate | None = None


class Variant(Model):
    """How a request is made: later with more output tokens, or with an excerpt of the transcript.

    `ask`: 1 for the first request of a step, one more for each repetition. `transcript_tokens`: the most tokens of the
    transcript; None: all of it.
    """

    ask: int = 1
    max_tokens: int = MAX_TOKENS
    transcript_tokens: int | None = None


class PaidStep(Model):
    """One paid step of a job on one candidate. Each `ask` is a paid request; the user is charged for one of them.

    hearing_request: the id of the transcription of a recording alone.
    """

    input: SessionAnalysisInput
    job_key: str
    workflow_id: str
    candidate: Candidate
    variant: Variant = Field(default_factory=Variant)
    after_voice: bool = False
    hearing_request: str = ""

    def request_step(self, name: Step) -> str:
        """The request id within the job: `voice-metrics`, `coaching`, and for repetitions `coaching/ask-{ask}`."""
        return name.first_request if self.variant.ask == 1 else f"{name.first_request}/ask-{self.variant.ask}"


class AcousticsStep(Model):
    """Measure the sound of the job's recording."""

    input: SessionAnalysisInput
    job_key: str


class AcousticsOutcome(Model):
    """The sound is measured and stored. `problem`: why it is not; empty if it is."""

    problem: str = ""


class StepOutcome(Model):
    """The outcome of a paid step. `problem`: why the reply cannot be used; empty if it can.

    session_sha256: of the session that was heard. heard_by: the candidate of that step, by which the reply is found
    again. The reply itself may be of a provider that this job does not have, because jobs share it.
    """

    provenance: Provenance | None = None
    problem: str = ""
    cut: bool = False
    too_long: bool = False
    warnings: tuple[str, ...] = ()
    session_sha256: str = ""
    heard_by: Candidate | None = None


class FinishStep(Model):
    """Assemble the result and store it.

    acoustics: whether the sound of the recording was measured.
    pending: the steps that are still to come, of a provisional result.
    """

    input: SessionAnalysisInput
    job_key: str
    choice: Choice
    provenance: tuple[Provenance, ...] = ()
    warnings: tuple[str, ...] = ()
    acoustics: bool = False
    reused: Reused | None = None
    pending: tuple[Step, ...] = ()


class CloseStep(Model):
    """Mark a job that ends without a result. The replies that it paid for stay."""

    input: SessionAnalysisInput
    job_key: str
    workflow_id: str
    status: Literal["failed", "cancelled"]
    reason: str


class Published(Model):
    """A provisional result is stored. `cost_usd`: of the job's paid requests so far."""

    cost_usd: Decimal


class Closed(Model):
    """The job is marked. `cost_usd`: of all its paid requests."""

    cost_usd: Decimal


def next_variant(variant: Variant, outcome: StepOutcome) -> Variant:
    """The next variant of a request whose reply could not be used."""
    return Variant(
        ask=variant.ask + 1,
        max_tokens=variant.max_tokens * 2 if outcome.cut else variant.max_tokens,
        transcript_tokens=_less(variant.transcript_tokens) if outcome.too_long else variant.transcript_tokens,
    )


def _less(transcript_tokens: int | None) -> int:
    return TOO_LONG_TOKENS if transcript_tokens is None else max(transcript_tokens // 2, LEAST_TRANSCRIPT_TOKENS)


def first_variant(strategy: Strategy, job: SessionAnalysisInput) -> Variant:
    """How coaching is requested first: `cost_optimized` reads an excerpt of a long transcript."""
    limited = strategy is Strategy.COST_OPTIMIZED
    return Variant(transcript_tokens=job.transcript_tokens if limited else None)


def workflow_id(job: SessionAnalysisInput, run_name: str = "") -> str:
    """One workflow id per analysis: starting it twice returns the running one. `run_name` distinguishes two runs.

    Two analyses are the same if they have the same session, recording, way of hearing, rubric, provider and model. A
    session's content says whose it is; a recording alone does not, and is heard for each user apart.
    """
    rubric = () if job.rubric in IDS_WITHOUT_RUBRIC else (job.rubric,)
    hearing = (job.hearing.model_dump_json(), job.owner.model_dump_json()) if job.hearing else ()
    content = (job.session_sha256, job.recording_sha256 or "", job.provider or "", job.model or "", *rubric, *hearing)
    digest = hashlib.sha256("/".join(content).encode()).hexdigest()
    parts = ("session-analysis", job.workspace_id, job.session_id, digest[:12], run_name)
    return "/".join(part for part in parts if part)


def hearing_request(job: SessionAnalysisInput, candidates: Sequence[Candidate], number: int = 1) -> str:
    """The id of the transcription of a recording by the first candidate. All jobs of a user on the recording share it.

    So correcting who the user is, or running the job again, pays for nothing that was heard already. Another user's
    jobs have another one, because a transcription is forgotten with its user. `number`: one more than were forgotten.
    What the simulator recognised is not used once the provider can be reached.
    """
    first = candidates[0]
    kind = ("simulated",) if first.simulated else ()
    again = (str(number),) if number > 1 else ()
    parts = (job.user_id, job.recording_sha256 or "", first.provider.value, first.model)
    return request_id("recording", *parts, *kind, *again)


def facts(session: Session, *, tier: str, previous_analyses: int) -> Facts:
    return Facts(
        tier=tier,
        previous_analyses=previous_analyses,
        duration_seconds=session.duration_seconds,
        turns=len(session.turns),
        speakers=session.speakers,
    )


def choose_strategy(known: Facts) -> Choice:
    """Choose the strategy of an analysis, with the reason.

    cached_analysis  a free user with more than two analyses gets an earlier one again; without one: `after_a_miss`
    fast_parallel    a short and simple session: voice and coaching concurrently
    cost_optimized   a long session: no speech-to-text if the transcript has word times, the cheapest model first
    hybrid           any other session: voice first, until a deadline, so that the coaching prompt has the metrics
    """
    seconds = known.duration_seconds
    if known.tier == FREE_TIER and known.previous_analyses > FREE_ANALYSES:
        reason = f"free tier and {known.previous_analyses} previous analyses of this user"
        return Choice(strategy=Strategy.CACHED_ANALYSIS, reason=reason)
    if seconds > LONG_SECONDS:
        return Choice(strategy=Strategy.COST_OPTIMIZED, reason=f"{seconds:g} s is over {LONG_SECONDS} s")
    if seconds < SHORT_SECONDS and is_simple(known):
        reason = f"{seconds:g} s is under {SHORT_SECONDS} s, {known.turns} turns of {known.speakers} speakers"
        return Choice(strategy=Strategy.FAST_PARALLEL, reason=reason)
    within = f"{seconds:g} s, {known.turns} turns: neither short and simple nor over {LONG_SECONDS} s"
    return Choice(strategy=Strategy.HYBRID, reason=within)


def after_a_miss(choice: Choice) -> Choice:
    """The choice of a session for which no earlier analysis can be used again: the cheap path."""
    reason = f"{choice.reason}, none of this or a similar conversation"
    return Choice(strategy=Strategy.COST_OPTIMIZED, reason=reason)


def is_simple(known: Facts) -> bool:
    """Whether it has at most two speakers and few turns."""
    return known.speakers <= 2 and known.turns <= SIMPLE_TURNS
