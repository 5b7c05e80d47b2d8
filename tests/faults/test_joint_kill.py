"""kill -9 of the worker while several short sessions share a request, then recovery by another worker."""

import asyncio
import signal
from dataclasses import dataclass
from typing import Any

import pytest

from parley import AnalysisReport
from parley.domain.session_analysis import COACHING_ACTION, ENERGY
from starter.embedded import Addresses
from tests.faults.scene import Scene, at_each, exited
from tests.short_sessions import listed, short

SESSIONS = 3
# Long enough that a busy machine starts all sessions within it.
COLLECTING = {"PARLEY_COLLECT_SECONDS": "3"}
# How many requests the provider bills at most, by the point of death.
POINTS = {"claiming": 1, "claimed": 1, "called": 2, "settling": 2, "settled": 1}


@dataclass
class Outcome:
    reports: list[AnalysisReport]
    charged: list[int]
    billed: int
    disagreements: list[Any]


async def killed_at(point: str, place: Scene) -> Outcome:
    worker = await place.start_worker(f"{point}=kill", **COLLECTING)
    jobs = [await place.client.analyze(short(number)) for number in range(SESSIONS)]
    await exited(worker, signal.SIGKILL)
    await place.start_worker(**COLLECTING)
    reports = await asyncio.gather(*(job.result() for job in jobs))
    users = [await place.client.energy(report.user_id) for report in reports]
    found = [*await place.client.audit(), *await place.client.audit(listed(await place.simulator.requests()))]
    return Outcome(list(reports), [user.charged for user in users], len(await place.simulator.billed()), found)


@pytest.fixture(scope="module")
async def outcomes(stack: Addresses, template: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return await at_each(POINTS, killed_at, stack, template, tmp_path_factory)


@pytest.mark.parametrize("point", POINTS)
def test_nothing_is_lost_and_each_user_is_charged_once(point: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[point]
    assert all(report.analysis and report.analysis.coaching.processed for report in outcome.reports)
    assert outcome.charged == [ENERGY[COACHING_ACTION]] * SESSIONS
    assert outcome.billed <= POINTS[point]
    assert outcome.disagreements == []
