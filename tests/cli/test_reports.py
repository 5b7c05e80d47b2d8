"""Reports, feedback, and the audit against a provider's list."""

import csv
import json
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from parley import Backend, Client
from parley.cli.reports import Kind
from parley.domain.errors import InvalidInput
from parley.storage.database import Database
from parley.storage.tables import Generation
from tests.cli.command import Run
from tests.parts import SAMPLES, SimulatorAdmin, run_sql

SAMPLE = SAMPLES / "cold-call-logistics.json"
REQUEST = "job/generate"


@pytest.fixture
async def generated(database: Database) -> None:
    """One `Generate` that completed, in an experiment."""
    row = Generation(
        workspace_id="default",
        request_id=REQUEST,
        job_key="job",
        fingerprint="asked",
        workflow_id="generate/default/job",
        user_id="rep-1",
        action="ai_message",
        experiment="tone",
        arm="casual",
        outcome="completed",
    )
    async with database.transaction() as tx:
        tx.add(row)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text)))


@pytest.mark.usefixtures("worker")
class TestReports:
    async def test_every_report_has_every_format(self, parley: Run, tmp_path: Path) -> None:
        await parley("analyze", SAMPLE)
        for kind in Kind:
            shown, as_json, table = (
                await parley("report", kind.value),
                await parley("report", kind.value, "--json"),
                await parley("report", kind.value, "--csv", "-"),
            )
            assert (shown.code, as_json.code, table.code) == (0, 0, 0), (kind, shown.err, as_json.err, table.err)
            assert "UTC" in shown.out
            found = json.loads(as_json.out)
            figures = found if kind is Kind.SUMMARY else found["lines"]
            assert len(rows(table.out)) >= len(figures) or kind is Kind.SUMMARY

    async def test_the_summary_shows_providers_costs_and_simulation(self, parley: Run) -> None:
        await parley("analyze", SAMPLE)
        shown = (await parley("report")).out
        for expected in (
            "anthropic",
            "was counted by the simulator",
            "no requests",
            "1 settled",
            "prompt caches saved",
        ):
            assert expected in shown
        found = json.loads((await parley("report", "--json")).out)
        assert found["total"]["simulated_usd"] == found["total"]["confirmed_usd"] != "0.000000"
        assert (found["total"]["energy_charged"], found["requests"]["cache_hit_rate"]) == (5, None)
        assert found["attempts"]["error_rate"] == 0

    async def test_a_report_covers_its_time_span_and_its_workspace(self, parley: Run) -> None:
        await parley("analyze", SAMPLE)
        assert json.loads((await parley("report", "users", "--json")).out)["users"] == 1
        assert json.loads((await parley("report", "users", "--json", "--workspace", "globex")).out)["users"] == 0
        days = json.loads((await parley("report", "daily", "--since", "2d", "--json")).out)["lines"]
        assert [day["attempts"] for day in days] == [0, 0, 1]

    async def test_csv_is_written_with_the_subject_of_each_line_first(self, parley: Run, tmp_path: Path) -> None:
        await parley("analyze", SAMPLE)
        ran = await parley("report", "actions", "--csv", tmp_path / "actions.csv")
        assert (ran.code, ran.out) == (0, "")
        assert "1 row written" in ran.err
        (line,) = rows((tmp_path / "actions.csv").read_text())
        assert next(iter(line)) == "action"
        assert (line["action"], line["attempts"], line["energy_charged"]) == ("session_coaching", "1", "5")


async def test_a_summary_as_csv_has_a_row_per_figure(parley: Run, generated: None) -> None:
    figures = {row["figure"]: row["value"] for row in rows((await parley("report", "--csv", "-")).out)}
    assert (figures["requests.completed"], figures["attempts.error_rate"]) == ("1", "")


async def test_a_user_id_is_not_a_formula_in_a_spreadsheet(parley: Run, database_url: str) -> None:
    await run_sql(
        database_url,
        """
        INSERT INTO ai_usage_logs (id, user_id, workspace_id, action, provider, model, answered_by, simulated,
            tokens_prompt, tokens_cached, tokens_cache_written, tokens_completion, tokens_total, audio_seconds,
            cost_usd, confirmed, outcome, energy_charged, rates, job_key, request_id, attempt_id, created_at)
        VALUES (gen_random_uuid(), '=1+1', 'default', 'a', 'openai', 'm', '', false, 1, 0, 0, 1, 2, 0, 1, true,
            'settled', 0, '{}', 'j', 'r', gen_random_uuid(), now())""",
    )
    (line,) = rows((await parley("report", "users", "--csv", "-")).out)
    assert line["user_id"] == "'=1+1"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nonsense",), "nonsense"),
        (("--since", "yesterday"), "--since"),
        (("daily", "--since", "36500d"), "since: must be at most 3,660 days ago"),
        (("weekly", "--since", "36500d"), "since: must be at most 3,660 days ago"),
        (("--csv", "-", "--json"), "--csv: cannot be combined with --json"),
        (("--csv", "/nowhere/at/all.csv"), "/nowhere/at/all.csv: cannot be written"),
    ],
)
async def test_a_bad_option_is_one_line(parley: Run, arguments: tuple[str, ...], problem: str) -> None:
    ran = await parley("report", *arguments)
    assert (ran.code, problem in ran.err, ran.out) == (2, True, "")


@pytest.mark.usefixtures("generated")
class TestFeedback:
    async def test_feedback_is_counted_for_its_arm(self, parley: Run) -> None:
        assert (await parley("feedback", REQUEST, "bad")).code == 0
        as_json = json.loads((await parley("feedback", REQUEST, "good", "--json")).out)
        assert as_json == {"request_id": REQUEST, "feedback": "good"}
        (arm,) = json.loads((await parley("report", "experiments", "--json")).out)["lines"]
        assert (arm["arm"], arm["good"], arm["bad"]) == ("casual", 1, 0)

    async def test_an_unknown_request_and_an_unknown_verdict_are_named(self, parley: Run) -> None:
        ran = await parley("feedback", "unknown/request", "good")
        assert (ran.code, "unknown/request" in ran.err) == (2, True)
        ran = await parley("feedback", REQUEST, "splendid")
        assert (ran.code, "splendid" in ran.err) == (2, True)
        assert (await parley("feedback", REQUEST, "good", "--workspace", "globex")).code == 2

    async def test_the_client_accepts_feedback_as_text(self, client: Client, database: Database) -> None:
        theirs = Backend(client.temporal, database, client.settings).client("default")
        await theirs.feedback(REQUEST, "good")
        assert (await theirs.reports.summary()).requests.good == 1
        with pytest.raises(InvalidInput, match="good or bad"):
            await theirs.feedback(REQUEST, "splendid")


@pytest.mark.usefixtures("worker")
class TestBilled:
    async def listed(self, simulator: SimulatorAdmin, path: Path) -> list[dict[str, Any]]:
        requests = await simulator.requests()
        path.write_text(json.dumps(requests))
        return requests

    async def test_the_simulators_listing_agrees(self, parley: Run, simulator: SimulatorAdmin, tmp_path: Path) -> None:
        """Two vendors that bill by token, one that bills by the hour, and a refused request."""
        await simulator.fault("rate_limit", provider="anthropic", times=1)
        short, audio = SAMPLES / "gatekeeper-dental-clinic.json", SAMPLES / "gatekeeper-dental-clinic.ogg"
        assert (await parley("analyze", short, "--audio", audio)).code == 0
        assert (await parley("analyze", SAMPLE, "--provider", "openai")).code == 0
        requests = await self.listed(simulator, tmp_path / "calls.json")
        assert {request["provider"] for request in requests if request["billed"]} >= {"openai", "elevenlabs"}
        ran = await parley("ledger", "audit", "--billed", tmp_path / "calls.json")
        assert (ran.code, "agrees" in ran.out) == (0, True), ran.out

    async def test_a_billed_attempt_without_a_row_exits_1(
        self, parley: Run, simulator: SimulatorAdmin, tmp_path: Path
    ) -> None:
        await parley("analyze", SAMPLE)
        (request,) = await self.listed(simulator, tmp_path / "calls.json")
        twice = [
            f"{request['attempt_id']},{request['input_tokens']}",
            f"{request['attempt_id']},{request['input_tokens']}",
            "me,7",
        ]
        (tmp_path / "calls.csv").write_text("\n".join(["attempt_id,input_tokens", *twice]))
        ran = await parley("ledger", "audit", "--billed", tmp_path / "calls.csv", "--json")
        found = {row["check"]: row for row in json.loads(ran.out)}
        assert ran.code == 1
        assert found["what was billed is in the ledger"]["subject"] == "line 4"
        counts = found["what was billed counts what the ledger says"]
        assert (counts["subject"], int(counts["expected"])) == (request["attempt_id"], 2 * request["input_tokens"])

    async def test_a_list_that_cannot_be_read_is_named(self, parley: Run, tmp_path: Path) -> None:
        (tmp_path / "calls.csv").write_text("attempt_id,cost_usd\nx,expensive\n")
        ran = await parley("ledger", "audit", "--billed", tmp_path / "calls.csv")
        assert (ran.code, ran.err.startswith("parley: calls.csv: line 2: cost_usd: ")) == (2, True)

    async def test_a_list_decides_what_is_uncertain(
        self, parley: Run, simulator: SimulatorAdmin, tmp_path: Path
    ) -> None:
        await simulator.fault("cut", provider="anthropic", times=1)
        await parley("analyze", SAMPLE)
        await self.listed(simulator, tmp_path / "calls.json")
        reconcile = ("ledger", "reconcile", "--billed", tmp_path / "calls.json", "--json")
        planned, done = (
            json.loads((await parley(*reconcile, "--dry-run")).out),
            json.loads((await parley(*reconcile)).out),
        )
        assert planned == done
        assert [one["billed"] for one in done] == [True]
        assert json.loads((await parley(*reconcile, "--complete-until", "0h")).out) == []
        costs = json.loads((await parley("costs", "--json")).out)
        assert Decimal(costs["uncertain_usd"]) == 0
        assert (await parley("ledger", "audit", "--billed", tmp_path / "calls.json")).code == 0

    async def test_a_time_that_is_none_is_refused(self, parley: Run, tmp_path: Path) -> None:
        (tmp_path / "calls.csv").write_text("attempt_id,cost_usd\n")
        ran = await parley("ledger", "reconcile", "--billed", tmp_path / "calls.csv", "--complete-until", "noon")
        assert (ran.code, "--complete-until" in ran.err) == (2, True)
