"""The job `SessionAnalysis`: its contract, its workflow id, and the rules that choose a strategy."""

import hashlib
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from pydantic import Field

from parley.domain.coaching import MAX_TOKENS, Coaching
from parley.domain.habits import Habits
from parley.domain.model import Model
from parley.domain.requests import LONGEST_PATIENCE_SECONDS, ByName
from parley.domain.routing import Candidate
from parley.domain.session import Session
from parley.domain.voice_metrics import VoiceMetrics

WORKFLOW = "SessionAnalysis"
COACHING_ACTION = "session_coaching"
VOICE_ACTION = "session_voice_metrics"
# What a user is charged for a result, in energy.
ENERGY = {COACHING_ACTION: 5, VOICE_ACTION: 3}
DEFAULT_BUDGET_USD = Decimal("1.00")
DEFAULT_PATIENCE_SECONDS = 24 * 3600

SHORT_SECONDS = 60
LONG_SECONDS = 300
SIMPLE_TURNS = 20
FREE_ANALYSES = 2


class Strategy(StrEnum):
    CACHED_ANALYSIS = "cached_analysis"
    FAST_PARALLEL = "fast_parallel"
    COST_OPTIMIZED = "cost_optimized"
    HYBRID = "hybrid"


class SessionAnalysisInput(ByName):
    """What to analyse, by reference to stored content.

    `wait`: park for up to `patience_seconds` while every provider is down. Without it a rule-based result, marked as
    such, comes at once. `provider` and `model` ask for one by name and rule the others out.
    """

    workspace_id: str = Field(min_length=1, max_length=200)
    user_id: str = Field(min_length=1, max_length=200)
    prospect_id: str | None = None
    session_id: str = Field(min_length=1, max_length=200)
    session_sha256: str
    recording_sha256: str | None = None
    wait: bool = True
    patience_seconds: int = Field(default=DEFAULT_PATIENCE_SECONDS, gt=0, le=LONGEST_PATIENCE_SECONDS)
    budget_usd: Decimal = Field(default=DEFAULT_BUDGET_USD, gt=0)


class SessionAnalysisResult(Model):
    """The job's outcome in small; the whole analysis is stored under `job_key`."""

    job_key: str
    status: Literal["completed"]
    strategy: Strategy
    overall_score: int | None = None
    processed: bool = False
    fallback: bool = False


class Step(StrEnum):
    PREPARE = "prepare"
    VOICE = "voice metrics"
    COACHING = "coaching"
    FINISH = "finish"


class Progress(Model):
    """Where a running analysis stands. `note` says what it waits for."""

    phase: Step
    strategy: Strategy | None = None
    strategy_reason: str = ""
    done: tuple[Step, ...] = ()
    total_steps: int = len(Step)
    note: str = ""


class Facts(Model):
    """What the choice of a strategy rests on."""

    tier: str
    previous_analyses: int
    duration_seconds: float
    turns: int
    speakers: int


class Choice(Model):
    strategy: Strategy
    reason: str


class Provenance(Model):
    """Who produced a part of the result. `simulated`: the test instrument answered, not the vendor."""

    step: Step
    provider: str
    model: str
    answered_by: str
    simulated: bool
    reason: str = ""


class Analysis(Model):
    """The whole result as it is stored."""

    session_id: str
    user_id: str
    strategy: Strategy
    strategy_reason: str
    voice_metrics: VoiceMetrics
    habits: Habits
    coaching: Coaching
    provenance: tuple[Provenance, ...]
    warnings: tuple[str, ...] = ()


class Plan(Model):
    """What `prepare` found: the strategy and who may serve each step. `cached_job`: the analysis to return."""

    choice: Choice
    coaching: tuple[Candidate, ...]
    voice: Candidate | None = None
    cached_job: str | None = None
    warnings: tuple[str, ...] = ()


class PrepareStep(Model):
    """Open the job: its stored row, its envelope, the user's account."""

    input: SessionAnalysisInput
    job_key: str
    workflow_id: str


class Asking(Model):
    """How a question is put: the first time as it is, later with more room for the answer or a shorter prompt."""

    ask: int = 1
    max_tokens: int = MAX_TOKENS
    condensed: bool = False


class PaidStep(Model):
    """One paid step of a job on one candidate. Each `ask` is a request of its own; the first alone is charged."""

    input: SessionAnalysisInput
    job_key: str
    workflow_id: str
    candidate: Candidate
    asking: Asking = Field(default_factory=Asking)
    after_voice: bool = False

    def request_step(self, name: Step) -> str:
        """The step's place in the job, which makes the request's id."""
        place = name.value.replace(" ", "-")
        return place if self.asking.ask == 1 else f"{place}/ask-{self.asking.ask}"


class StepOutcome(Model):
    """What came of a paid step. `problem`: why its content cannot be used, empty where it can."""

    provenance: Provenance | None = None
    problem: str = ""
    cut: bool = False
    too_long: bool = False


class FinishStep(Model):
    """Put the parts together and store the result."""

    input: SessionAnalysisInput
    job_key: str
    choice: Choice
    provenance: tuple[Provenance, ...] = ()
    warnings: tuple[str, ...] = ()
    cached_job: str | None = None


class CloseStep(Model):
    """Mark a job that ends without a result; what it paid for stays."""

    input: SessionAnalysisInput
    job_key: str
    status: Literal["failed", "cancelled"]


def ask_again(asking: Asking, outcome: StepOutcome) -> Asking:
    """The next way to put a question whose answer could not be used."""
    return Asking(
        ask=asking.ask + 1,
        max_tokens=asking.max_tokens * 2 if outcome.cut else asking.max_tokens,
        condensed=asking.condensed or outcome.too_long,
    )


def workflow_id(job: SessionAnalysisInput, run_name: str = "") -> str:
    """One id per question: starting the same analysis twice returns the running one. A `run_name` keeps two apart.

    The question is the content of session and recording, and who is asked by name.
    """
    asked = (job.session_sha256, job.recording_sha256 or "", job.provider or "", job.model or "")
    question = hashlib.sha256("/".join(asked).encode()).hexdigest()
    parts = ("session-analysis", job.workspace_id, job.session_id, question[:12], run_name)
    return "/".join(part for part in parts if part)


def facts(session: Session, *, tier: str, previous_analyses: int) -> Facts:
    return Facts(
        tier=tier,
        previous_analyses=previous_analyses,
        duration_seconds=session.duration_seconds,
        turns=len(session.turns),
        speakers=session.speakers,
    )


def choose_strategy(known: Facts) -> Choice:
    """How to analyse a session, and why.

    cached_analysis  a free user who had this very session analysed more than twice gets the latest result
    fast_parallel    short and simple: voice and coaching at the same time
    cost_optimized   long: no speech-to-text where the transcript has the words, the cheapest model first
    hybrid           else: voice first, so that the coach knows what was measured
    """
    seconds = known.duration_seconds
    if known.tier == "free" and known.previous_analyses > FREE_ANALYSES:
        reason = f"free tier and {known.previous_analyses} previous analyses of this session"
        return Choice(strategy=Strategy.CACHED_ANALYSIS, reason=reason)
    if seconds > LONG_SECONDS:
        return Choice(strategy=Strategy.COST_OPTIMIZED, reason=f"{seconds:g} s is over {LONG_SECONDS} s")
    if seconds < SHORT_SECONDS and is_simple(known):
        reason = f"{seconds:g} s is under {SHORT_SECONDS} s, {known.turns} turns of {known.speakers} speakers"
        return Choice(strategy=Strategy.FAST_PARALLEL, reason=reason)
    within = f"{seconds:g} s, {known.turns} turns: neither short and simple nor over {LONG_SECONDS} s"
    return Choice(strategy=Strategy.HYBRID, reason=within)


def is_simple(known: Facts) -> bool:
    """Two people at most, and no long back and forth."""
    return known.speakers <= 2 and known.turns <= SIMPLE_TURNS
