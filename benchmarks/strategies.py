"""Each strategy of a session analysis against its critical path, and a hundred sessions at once on one worker.

The critical path is what an analysis cannot do without: the replies of the providers, by the simulator's log, and the
measuring of the sound, by the history of the workflow. It follows from the strategy: side by side for
`fast_parallel`, one after the other for `hybrid` and `cost_optimized`; up to the first result, the deadline and the
reply of the model for a voice that is late; nothing for `cached_analysis`. The rest is overhead, by the clock of
Temporal, and for the client with the storing of the session and the reading of the result.

The hundred sessions run with the default limit of ElevenLabs, and its simulator admits 100 requests in any 60 seconds.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

from temporalio.api.enums.v1 import EventType

from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.stack import Bench, running, say
from parley import AnalysisHandle, Client
from parley.client.reading import read_session
from parley.domain.session import Session, Turn
from parley.domain.session_analysis import Strategy

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
RECORDING = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()
SHORT, MIDDLE, LONG = "gatekeeper-dental-clinic", "cold-call-logistics", "demo-hospital-rostering"
# A reply of a fast model, and of speech-to-text for a minute of sound.
LATENCY = {"median": 1.5, "sigma": 0.4}
JOBS = 20
AIM_MS = 150
LATE_SECONDS = 0.5
AT_ONCE = 100
# How many are sent at a time; each has a recording. All run at once soon.
STARTS_AT_ONCE = 10
ELEVENLABS_REQUESTS, ELEVENLABS_WINDOW_SECONDS = 100, 60.0
WITHIN_SECONDS = 600


@dataclass(frozen=True)
class Case:
    """A kind of analysis. `pairs`: whether voice and coaching are side by side. `late`: whether the voice is."""

    name: str
    sample: str
    strategy: Strategy
    recording: bool = True
    pairs: bool = False
    late: bool = False
    earlier: int = 0


CASES = (
    Case("fast_parallel", SHORT, Strategy.FAST_PARALLEL, pairs=True),
    Case("hybrid, the voice before the deadline", MIDDLE, Strategy.HYBRID),
    Case("hybrid, the first result without the voice", MIDDLE, Strategy.HYBRID, late=True),
    Case("cost_optimized, words without times", LONG, Strategy.COST_OPTIMIZED),
    Case("cached_analysis, exact", MIDDLE, Strategy.CACHED_ANALYSIS, recording=False, earlier=3),
    Case("cached_analysis, similar", MIDDLE, Strategy.CACHED_ANALYSIS, recording=False, earlier=3),
)


@dataclass(frozen=True)
class Over:
    """The seconds of an analysis over its critical path, in the workflow and for its client."""

    critical: float
    workflow: float
    client: float


async def measure(options: Options) -> Figures:
    jobs = options.sessions or JOBS
    figures: Figures = {}
    async with running(PARLEY_HEARING="elevenlabs", PARLEY_STARTING_ENERGY="1000000") as bench:
        await bench.latency(**LATENCY)
        for case in CASES:
            figures[case.name] = _percentiles(await _alone(bench, case, jobs))
            say(f"{case.name}: {figures[case.name]}")
    figures[f"{AT_ONCE} sessions at once on one worker"], problems = await _at_once()
    figures[MUST_BE_ZERO] = problems
    return figures


async def _alone(bench: Bench, case: Case, jobs: int) -> list[Over]:
    """The case so many times, one after the other. The first one warms the worker up, and is not counted."""
    client = await bench.client(f"bench-{case.name.replace(' ', '-').replace(',', '')}")
    for number in range(case.earlier):
        await (await client.analyze(_session(case, "u", "s"), run_name=f"earlier-{number}")).result(final=True)
    return [await _one(bench, client, case, number) for number in range(jobs + 1)][1:]


async def _one(bench: Bench, client: Client, case: Case, number: int) -> Over:
    same = case.name.endswith("exact")
    session = _session(case, "u" if case.earlier else f"u-{number}", "s" if same else f"s-{number}")
    terms: dict[str, Any] = {"voice_deadline_seconds": LATE_SECONDS if case.late else 60}
    began = time.time()
    job = await client.analyze(session, audio=RECORDING if case.recording else None, run_name=f"run-{number}", **terms)
    report = await job.result()
    seconds = time.time() - began
    if report.analysis is None or report.analysis.strategy is not case.strategy:
        raise ValueError(f"{case.name} has another strategy: {report.analysis and report.analysis.strategy_reason}")
    await job.result(final=True)
    started, ended, sound = await _times(client, job, first=case.late)
    replies = await _replies(bench, client, job)
    critical = _critical_path(case, replies, sound)
    return Over(critical, ended - started - critical, seconds - critical)


def _critical_path(case: Case, replies: dict[str, float], sound: float) -> float:
    """The seconds that the analysis cannot do without."""
    voice, coaching = max(replies.get("voice-metrics", 0.0), sound), replies.get("coaching", 0.0)
    if case.late:
        return min(voice, LATE_SECONDS) + coaching
    return max(voice, coaching) if case.pairs else voice + coaching


async def _times(client: Client, job: AnalysisHandle, *, first: bool) -> tuple[float, float, float]:
    """When a workflow started, when it had stored its result, and the seconds in which the sound was measured.

    `first`: its first result, which is amended later, in place of its last one. Times are those of Temporal.
    """
    history = await client.temporal.get_workflow_handle(job.id).fetch_history()
    names: dict[int, str] = {}
    began: dict[int, float] = {}
    times: dict[str, tuple[float, float]] = {}
    for event in history.events:
        at = event.event_time.ToNanoseconds() / 1e9
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            names[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            began[event.activity_task_started_event_attributes.scheduled_event_id] = at
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            scheduled = event.activity_task_completed_event_attributes.scheduled_event_id
            times[names[scheduled]] = began[scheduled], at
    started = history.events[0].event_time.ToNanoseconds() / 1e9
    sound_began, sound_ended = times.get("session_analysis.measure_acoustics", (0.0, 0.0))
    publish = times.get("session_analysis.publish") if first else None
    ended = publish[1] if publish else history.events[-1].event_time.ToNanoseconds() / 1e9
    return started, ended, sound_ended - sound_began


async def _replies(bench: Bench, client: Client, job: AnalysisHandle) -> dict[str, float]:
    """How long the provider of each step took, by the step's name."""
    requests = {one["attempt_id"]: one for one in await bench.billed()}
    return {
        attempt.step: request["ended_at"] - request["received_at"]
        for attempt in (await client.attempts(job.job_key)).attempts
        if (request := requests.get(str(attempt.attempt_id)))
    }


def _session(case: Case, user_id: str, session_id: str) -> Session:
    """The sample as a session of its own. Without times of words, so that speech-to-text is needed.

    A similar session is another recording of the same conversation: it has other times.
    """
    sample = read_session(SAMPLES / f"{case.sample}.json")
    later = 0.01 if case.name.endswith("similar") and session_id != "s" else 0.0
    turns = tuple(_moved(turn, later) for turn in sample.turns)
    return sample.model_copy(update={"user_id": user_id, "session_id": session_id, "turns": turns})


def _moved(turn: Turn, seconds: float) -> Turn:
    return turn.model_copy(update={"start": turn.start + seconds, "end": turn.end + seconds, "words": ()})


def _percentiles(measured: Sequence[Over]) -> dict[str, float]:
    over = [one.workflow * 1000 for one in measured]
    whole = [one.client * 1000 for one in measured]
    return {
        "critical path, s": mean(one.critical for one in measured),
        f"over it, ms (aim: {AIM_MS}), p50": median(over),
        "over it, ms, p95": _p95(over),
        "over it for the client, ms, p50": median(whole),
        "over it for the client, ms, p95": _p95(whole),
    }


def _p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[-1]


@dataclass(frozen=True)
class Ended:
    """One of many sessions: the seconds from its start until its first result and its last one."""

    first: float
    last: float
    failed: bool


async def _at_once() -> tuple[dict[str, float], dict[str, float]]:
    limit = {"ELEVENLABS_REQUESTS_PER_SECOND": "1.5"}
    async with running(PARLEY_HEARING="elevenlabs", **limit) as bench:
        await bench.latency(**LATENCY)
        await bench.limit("elevenlabs", ELEVENLABS_REQUESTS, ELEVENLABS_WINDOW_SECONDS)
        client = await bench.client("bench-at-once")
        samples = (SHORT, MIDDLE, LONG)
        cases = [Case("", samples[number % 3], Strategy.HYBRID) for number in range(AT_ONCE)]
        sessions = [_session(case, f"u-{number}", f"s-{number}") for number, case in enumerate(cases)]
        starts, began = asyncio.Semaphore(STARTS_AT_ONCE), time.time()
        async with asyncio.timeout(WITHIN_SECONDS):
            ended = await asyncio.gather(*(_of_many(client, session, starts) for session in sessions))
        requests = await bench.requests("elevenlabs")
        disagreements = len(await client.audit())
    at = sorted(one["received_at"] for one in requests)
    busiest = max(sum(start <= one < start + ELEVENLABS_WINDOW_SECONDS for one in at) for start in at)
    waits = [one - began for one in at]
    figures = {
        "seconds until the last result": max(one.last for one in ended),
        "wait for the first result, s, p50": median(one.first for one in ended),
        "wait for the first result, s, p95": _p95([one.first for one in ended]),
        "wait for the last result, s, p95": _p95([one.last for one in ended]),
        "wait for speech-to-text, s, p50": median(waits),
        "wait for speech-to-text, s, p95": _p95(waits),
        "requests to ElevenLabs": len(at),
        "of them in the busiest 60 s": busiest,
    }
    return figures, {
        "failed sessions": sum(one.failed for one in ended),
        "requests over the limit": max(0, busiest - ELEVENLABS_REQUESTS),
        "refused requests": sum(one["state"] == "refused" for one in requests),
        "disagreements": disagreements,
    }


async def _of_many(client: Client, session: Session, starts: asyncio.Semaphore) -> Ended:
    async with starts:
        began = time.time()
        job = await client.analyze(session, audio=RECORDING)
    await job.result()
    first = time.time() - began
    report = await job.result(final=True)
    failed = report.analysis is None or not report.analysis.coaching.processed
    return Ended(first, time.time() - began, failed)
