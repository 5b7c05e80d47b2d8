"""The known labels of a request, and how a step waits for the streams that have yet to find them."""

import asyncio
from typing import Any

import pytest

from activities.auto_analyze import known_labels
from activities.auto_analyze.known_labels import Behind, KnownLabels
from parley.domain.auto_analyze import batching
from parley.domain.auto_analyze.contract import AutoAnalyzeInput, Job, LabelKind, Phase
from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.nearest import NearestLabels
from parley.domain.auto_analyze.steps import ClassifyStep
from parley.domain.requests import Provider
from parley.domain.routing import Candidate
from parley.storage import auto_analyze as runs
from parley.storage.database import Database
from tests.storage.test_auto_analyze import Run, labels

MODEL = "gpt-4o-mini"
SAID = "what the user said"
NAMES = ("refund", "billing", "parcel", "address", "login")


@pytest.fixture
async def run(database: Database) -> Run:
    """Five batches of two streams, which have taken the first two: rounds 1, 1, 2, 2 and 3."""
    run = await (await Run(database).import_(12)).begin(list(range(12)))
    await run.call(runs.store_batches, 2, [2, 2, 2, 2, 1], 2)
    for stream in (1, 2):
        await run.call(runs.take_batch, stream)
    return run


def step(run: Run, round_number: int, *, max_staleness: int | None = 0) -> ClassifyStep:
    workspace, job_key = run.scope
    given = AutoAnalyzeInput(workspace_id=workspace, user_id="u", dataset_id="d", max_staleness=max_staleness)
    return ClassifyStep(
        job=Job(input=given, job_key=job_key, workflow_id="w"),
        candidate=Candidate(provider=Provider.OPENAI, model=MODEL, simulated=True, reason=""),
        phase=Phase.PARALLEL,
        round=round_number,
        stream=1,
        ordinals=(0,),
        sized_for=MODEL,
    )


def known_by(run: Run, at_once: float = 100) -> KnownLabels:
    """What a worker knows."""
    return KnownLabels(run.database, lambda _: at_once)


async def end(run: Run, *numbers: int) -> None:
    """Label a session of each batch, and end it."""
    for number in numbers:
        place = (number // 2 + 1, number % 2 + 1)
        await run.store({2 * number + 2: labels(NAMES[number])}, *place, ends=number, said={2 * number + 2: SAID})


def intents(found: NearestLabels | Behind) -> list[str]:
    assert isinstance(found, NearestLabels)
    return list(found.fitting([], MODEL).labels[LabelKind.INTENT])


async def test_the_labels_are_those_of_all_rounds_up_to_the_horizon(run: Run) -> None:
    known = known_by(run)
    await run.store({0: labels("greeting")}, 0, phase=Phase.DISCOVERY)
    await end(run, 0, 1, 2)
    assert intents(await known.of(step(run, 1))) == ["greeting"]
    assert intents(await known.of(step(run, 2))) == ["greeting", "billing", "refund"]
    assert intents(await known.of(step(run, 3, max_staleness=1))) == ["greeting", "billing", "refund"]
    assert intents(await known.of(step(run, 3, max_staleness=2))) == ["greeting", "billing", "refund"]
    assert intents(await known.of(step(run, 1, max_staleness=None))) == ["greeting", "billing", "refund", "parcel"]


async def test_a_step_waits_until_all_streams_have_completed_the_round(run: Run) -> None:
    known = known_by(run)
    waiting = asyncio.create_task(known.of(step(run, 2)))
    await end(run, 0)
    known.set_open_round(run.scope, 1)
    assert not waiting.done()
    await end(run, 1)
    known.set_open_round(run.scope, 2)
    assert intents(await waiting) == ["billing", "refund"]


async def test_a_round_that_another_worker_completes_is_seen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_labels, "LOOK_SECONDS", 0.02)
    waiting = asyncio.create_task(known_by(run).of(step(run, 2)))
    await end(run, 0, 1)
    assert intents(await waiting) == ["billing", "refund"]


async def test_a_step_that_would_wait_long_names_the_stream_that_is_behind(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_labels, "WAIT_SECONDS", 0)
    await end(run, 0)
    assert await known_by(run).of(step(run, 2)) == Behind(2)
    assert await known_by(run).of(step(run, 3)) == Behind(2)


async def test_no_more_steps_wait_than_requests_may_be_made_in_a_second(run: Run) -> None:
    """All that wait go on at once."""
    known = known_by(run, at_once=2)
    waiting = [asyncio.create_task(known.of(step(run, 2))) for _ in range(3)]
    [over], still = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert (over.result(), len(still)) == (Behind(1), 2)
    await end(run, 0, 1)
    known.set_open_round(run.scope, 2)
    assert [intents(found) for found in await asyncio.gather(*still)] == [["billing", "refund"]] * 2


async def test_a_cancelled_step_does_not_wait_any_more(run: Run) -> None:
    known = known_by(run, at_once=1)
    first, second = (asyncio.create_task(known.of(step(run, 2))) for _ in range(2))
    await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    waits = second if first.done() else first
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    again = asyncio.create_task(known.of(step(run, 2)))
    await end(run, 0, 1)
    known.set_open_round(run.scope, 2)
    assert intents(await again) == ["billing", "refund"]


async def test_rounds_are_read_once_for_all_streams(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    known, read = known_by(run), list[dict[str, Any]]()
    stored = runs.known_labels

    async def counted(*args: Any, **bounds: Any) -> Any:
        read.append(bounds)
        return await stored(*args, **bounds)

    monkeypatch.setattr(runs, "known_labels", counted)
    await end(run, 0, 1, 2, 3)
    await asyncio.gather(*(known.of(step(run, 2)) for _ in range(8)))
    await asyncio.gather(*(known.of(step(run, 3)) for _ in range(8)))
    assert read == [{"after": None, "up_to": 1}, {"after": 1, "up_to": 2}]


async def test_a_round_without_new_labels_has_the_comparison_of_the_round_before(run: Run) -> None:
    """To prepare the comparison takes milliseconds, and most rounds find no new label."""
    known = known_by(run)
    await end(run, 0, 1)
    for number in (2, 3):
        await run.store({2 * number + 2: labels(NAMES[0])}, 2, number % 2 + 1, ends=number)
    before = await known.of(step(run, 2))
    assert await known.of(step(run, 3)) is before
    assert intents(before) == ["billing", "refund"]


async def test_labels_without_room_are_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LABEL_SHARE", 0.0002)
    await end(run, 0, 1, 2, 3)
    found = await known_by(run).of(step(run, 3))
    assert isinstance(found, NearestLabels)
    assert found.fitting([], MODEL).left_out == 4 - len(intents(found)) > 0


async def test_labels_come_with_the_evidence_of_their_first_sessions(run: Run) -> None:
    known = known_by(run)
    await end(run, 0, 1, 2, 3)
    await known.of(step(run, 2))
    found = await known.of(step(run, 3))
    assert isinstance(found, NearestLabels)
    shown = LabelEvidence(label="parcel", definition="As it was.", examples=(SAID,))
    assert found.fitting(["where is my parcel"], MODEL).evidence[0] == shown
