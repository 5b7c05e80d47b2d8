"""kill -9 at each step of the paid call, for each behaviour of the provider: one generation for each pair.

A worker holds a generation for every pair of step and behaviour, and is killed once. Generations that are held within
their last transaction run in a separate scene: they hold row locks that others would wait for.
"""

import asyncio
import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from parley import Client
from parley.cli.billed import read_billed
from parley.domain.errors import JobFailed
from parley.domain.generate.contract import GenerateResult
from parley.domain.generate.replies import parsed
from parley.domain.requests import Provider
from starter.embedded import Addresses
from tests.faults.gated_simulator import GatedSimulator, gated_simulator
from tests.faults.scene import Scene, exited, scene

USER = "ann"
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"type": "string"}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}
# Behaviours and their providers. Three behaviours lock the breaker's row of the provider, so their providers differ.
BEHAVIOURS = {
    "ok": Provider.OPENAI,
    "rate_limit": Provider.OPENAI,
    "server_error": Provider.ANTHROPIC,
    "hang": Provider.OPENAI,
    "cut": Provider.LOCAL,
    "aborted": Provider.OPENAI,
    "malformed": Provider.OPENAI,
    "quota always": Provider.OPENAI,
}
MODELS = {
    Provider.OPENAI: "gpt-4o-mini",
    Provider.ANTHROPIC: "claude-haiku-4-5",
    Provider.LOCAL: "llama-3.1-8b-instruct",
}
BILLED = ("ok", "hang", "cut", "aborted", "malformed")
# Behaviours that need a second request, whether the worker dies or not.
REQUESTED_AGAIN = ("hang", "cut", "aborted", "malformed")
# No attempt is ever answered.
NEVER_ANSWERED = "quota always"
POINTS = ("claiming", "claimed", "called", "settled", "in flight", "settling")
CASES = [(point, behaviour) for point in POINTS for behaviour in BEHAVIOURS]


@dataclass
class Outcome:
    result: GenerateResult | BaseException
    attempts: list[dict[str, Any]]
    billed: list[str]
    rows: list[dict[str, Any]]
    generations: list[dict[str, Any]]
    cached: list[dict[str, Any]]
    charged: int
    reserved: int
    disagreements: list[object]


def environment(simulator: GatedSimulator) -> dict[str, str]:
    return {
        "PARLEY_PROVIDER_TIMEOUT_SECONDS": "4",
        # Long, because a busy machine renews leases late.
        "PARLEY_LEASE_SECONDS": "8",
        "PARLEY_BREAKER_FAILURES": "1000",
        "LOCAL_BASE_URL": f"{simulator.url}/local/v1",
        "LOCAL_USD_PER_MILLION_INPUT": "1",
        "LOCAL_USD_PER_MILLION_OUTPUT": "1",
        **{f"{provider.name}_REQUESTS_PER_SECOND": "1000" for provider in MODELS},
    }


def workspace_of(point: str, behaviour: str) -> str:
    return f"{point}-{behaviour}".translate(str.maketrans(" _", "--"))


async def ask(client: Client, behaviour: str, *, held: bool) -> GenerateResult:
    provider = BEHAVIOURS[behaviour]
    text = f"How do I sound? [{behaviour} for {client.workspace_id}{', held' if held else ''}]"
    return await client.generate(
        text, user_id=USER, provider=provider, model=MODELS[provider], response_schema=SCHEMA, key="once"
    )


async def played(place: Scene, simulator: GatedSimulator, points: Sequence[str]) -> dict[tuple[str, str], Any]:
    """Start a worker, hold every behaviour at each point, kill the worker, and start another."""
    armed = ",".join(f"{point}=hold:{len(BEHAVIOURS)}" for point in points if point != "in flight")
    worker = await place.start_worker(armed, **environment(simulator))
    generations: dict[tuple[str, str], asyncio.Task[GenerateResult]] = {}
    for point in points:
        for behaviour in BEHAVIOURS:
            client = place.in_workspace(workspace_of(point, behaviour))
            await client.set_tier(USER, "pro")
            asking = ask(client, behaviour, held=point == "in flight")
            generations[point, behaviour] = asyncio.create_task(asking)
        if point == "in flight":
            billed = len(BILLED) * (1 + points.index(point) - points.index("called"))
            await simulator.requests(at_least=billed, billed="true", timeout=30)
            async with asyncio.timeout(30):
                while simulator.middleware.held < len(BEHAVIOURS) - 1:  # `hang` never starts a reply
                    await asyncio.sleep(0.02)
        else:
            await place.holding(point, len(BEHAVIOURS))
    worker.kill()
    await exited(worker, signal.SIGKILL)
    simulator.middleware.release()
    await place.start_worker(**environment(simulator))
    results = await asyncio.gather(*generations.values(), return_exceptions=True)
    return {case: await seen(place, simulator, case, result) for case, result in zip(generations, results, strict=True)}


async def seen(
    place: Scene, simulator: GatedSimulator, case: tuple[str, str], result: GenerateResult | BaseException
) -> Outcome:
    client = place.in_workspace(workspace_of(*case))

    async def select(sql: str) -> list[dict[str, Any]]:
        return await place.query(sql.format(ours=f"workspace_id = '{client.workspace_id}'"))

    attempts = await select(
        "SELECT id::text, state, billed, error_type FROM attempts WHERE {ours} ORDER BY request_id, number"
    )
    ours = {attempt["id"] for attempt in attempts}
    billed = [request for request in await simulator.billed() if request["attempt_id"] in ours]
    listing = place.directory / f"{client.workspace_id}.json"
    listing.write_text(json.dumps(billed))
    energy = await client.energy(USER)
    return Outcome(
        result=result,
        attempts=attempts,
        billed=[request["attempt_id"] for request in billed],
        rows=await select("SELECT attempt_id::text, energy_charged FROM ai_usage_logs WHERE {ours}"),
        generations=await select("SELECT outcome, reason, cached FROM generations WHERE {ours}"),
        cached=await select("SELECT reply FROM llm_cache WHERE {ours}"),
        charged=energy.charged,
        reserved=energy.reserved,
        disagreements=list(await client.audit(read_billed(listing))),
    )


@pytest.fixture(scope="module")
async def everything(
    stack: Addresses, template: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Outcome]:
    async def play(*points: str) -> dict[tuple[str, str], Outcome]:
        directory = tmp_path_factory.mktemp("scene")
        async with gated_simulator() as simulator, scene(stack, template, directory, simulator) as place:
            outcomes = await played(place, simulator, points)
            known = {row["id"] for row in await place.query("SELECT id::text FROM attempts")}
            assert {request["attempt_id"] for request in await simulator.billed()} <= known
            return outcomes

    first, last = await asyncio.gather(play(*POINTS[:-1]), play(POINTS[-1]))
    return first | last


@pytest.fixture
def outcome(case: tuple[str, str], everything: dict[tuple[str, str], Outcome]) -> Outcome:
    return everything[case]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}, killed {case[0]}")
class TestKilled:
    def test_the_generation_ends_with_one_row(self, case: tuple[str, str], outcome: Outcome) -> None:
        if case[1] == NEVER_ANSWERED:
            assert isinstance(outcome.result, JobFailed) and outcome.result.reason == "ProviderUnavailable"
            recorded = [(row["outcome"], row["reason"]) for row in outcome.generations]
            assert recorded == [("failed", "ProviderUnavailable")]
            return
        assert isinstance(outcome.result, GenerateResult), outcome
        assert set(outcome.result.parsed) == set(SCHEMA["properties"])
        assert [row["outcome"] for row in outcome.generations] == ["completed"]
        assert outcome.result.meta.attempts == len(outcome.attempts)

    def test_only_the_answer_is_charged_and_once(self, case: tuple[str, str], outcome: Outcome) -> None:
        charges = [] if case[1] == NEVER_ANSWERED else [1]
        assert (outcome.charged, outcome.reserved) == (sum(charges), 0)
        assert [row["energy_charged"] for row in outcome.rows if row["energy_charged"]] == charges

    def test_an_attempt_that_the_worker_did_not_record_is_lost(self, case: tuple[str, str], outcome: Outcome) -> None:
        point, behaviour = case
        first = outcome.attempts[0]["state"]
        if point in ("claimed", "in flight", "called", "settling"):
            assert first == "lost"
        else:
            assert first == ("settled" if behaviour in ("ok", "malformed") else "failed")
            assert "lost" not in [attempt["state"] for attempt in outcome.attempts]

    def test_every_billed_or_lost_attempt_has_a_row(self, case: tuple[str, str], outcome: Outcome) -> None:
        rows = {row["attempt_id"] for row in outcome.rows}
        lost = {attempt["id"] for attempt in outcome.attempts if attempt["state"] == "lost"}
        assert set(outcome.billed) | lost <= rows
        assert len(outcome.rows) == len(rows)

    def test_a_complete_reply_is_paid_again_only_if_it_was_not_recorded(
        self, case: tuple[str, str], outcome: Outcome
    ) -> None:
        point, behaviour = case
        lost = point in ("in flight", "called", "settling") and behaviour in BILLED
        answers = 0 if behaviour == NEVER_ANSWERED else 1
        assert len(outcome.billed) == answers + (lost or behaviour in REQUESTED_AGAIN)

    def test_the_ledger_agrees_with_the_provider(self, case: tuple[str, str], outcome: Outcome) -> None:
        assert outcome.disagreements == []

    def test_only_a_complete_answer_is_cached(self, case: tuple[str, str], outcome: Outcome) -> None:
        cached = [parsed(row["reply"]["text"], SCHEMA) for row in outcome.cached]
        assert cached == ([] if case[1] == NEVER_ANSWERED else [(outcome.result.parsed, "")])
