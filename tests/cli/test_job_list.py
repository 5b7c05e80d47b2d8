"""`parley jobs`: status, cost and reason of every job, and each run of the same content."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from parley import Client, InvalidInput, RunEstimate
from tests.cli.command import Run
from tests.parts import SAMPLES, SimulatorAdmin

SAMPLE = SAMPLES / "cold-call-logistics.json"
CHATS = SAMPLES / "chats" / "support.jsonl"

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A file of two chat sessions."""
    file = tmp_path / "few.jsonl"
    file.write_text("".join(CHATS.read_text().splitlines(keepends=True)[:2]))
    return file


async def listed(parley: Run, *options: str) -> list[dict[str, str]]:
    ran = await parley("jobs", "--json", *options)
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


async def test_each_kind_is_listed_with_its_status_and_cost(parley: Run, few: Path) -> None:
    assert (await parley("jobs")).out == "no jobs\n"
    await parley("analyze", SAMPLE)
    await parley("auto-analyze", few)
    await parley("generate", "hello", "--user", "ann")
    jobs = await listed(parley)
    assert [(job["kind"], job["status"]) for job in jobs] == [
        ("Generate", "completed"),
        ("AutoAnalyze", "completed"),
        ("SessionAnalysis", "completed"),
    ]
    assert all(Decimal(job["cost_usd"]) > 0 for job in jobs)
    assert [job["kind"] for job in await listed(parley, "--kind", "AutoAnalyze")] == ["AutoAnalyze"]
    assert len(await listed(parley, "--limit", "1")) == 1
    assert await listed(parley, "--status", "failed") == []
    assert await listed(parley, "--workspace", "globex") == []
    shown = (await parley("jobs")).out
    assert all(job["id"] in shown and job["job_key"] in shown for job in jobs)


async def test_the_reason_of_a_failed_job_is_listed_and_in_its_result(
    parley: Run, few: Path, simulator: SimulatorAdmin
) -> None:
    await simulator.fault("quota", times=None)
    await parley("analyze", SAMPLE, "--provider", "openai")
    await parley("auto-analyze", few, "--provider", "openai")
    jobs = await listed(parley, "--status", "failed")
    assert len(jobs) >= 1
    for job in jobs:
        assert "quota" in job["reason"]
        shown = " ".join((await parley("results", job["id"])).out.replace("│", "").split())
        assert job["reason"] in shown
        assert json.loads((await parley("results", job["id"], "--json")).out)["reason"] == job["reason"]


async def test_a_job_that_failed_before_it_began_is_listed(parley: Run, few: Path) -> None:
    """The provider has no address: nothing is prepared."""
    for command in (("analyze", SAMPLE), ("auto-analyze", few)):
        assert (await parley(*command, "--provider", "local")).code == 2
    jobs = await listed(parley)
    assert [(job["kind"], job["status"]) for job in jobs] == [("AutoAnalyze", "failed"), ("SessionAnalysis", "failed")]
    for job in jobs:
        assert job["reason"].startswith("ProviderNotConfigured: ")


async def test_a_second_run_of_a_file_does_not_hide_the_first(parley: Run, few: Path) -> None:
    first = json.loads((await parley("auto-analyze", few, "--json")).out)
    again = await parley("auto-analyze", few, "--model", "gpt-4o-mini")
    assert f"parley jobs --id {first['id']}" in again.err
    assert "--run-name" in again.err
    second, listed_first = await listed(parley, "--id", first["id"])
    assert (listed_first["job_key"], second["id"]) == (first["job_key"], first["id"])
    for job in (listed_first, second):
        assert json.loads((await parley("results", job["job_key"], "--json")).out)["job_key"] == job["job_key"]
    named = await parley("auto-analyze", few, "--run-name", "b")
    assert "jobs on the same content" not in named.err


async def test_a_job_that_has_ended_cannot_be_cancelled(parley: Run) -> None:
    await parley("analyze", SAMPLE)
    [job] = await listed(parley)
    ran = await parley("cancel", job["id"])
    assert (ran.code, ran.out) == (2, "")
    assert "is completed and cannot be cancelled" in ran.err
    assert (await parley("cancel", job["job_key"])).code == 2


async def test_an_export_of_a_running_job_is_marked(
    parley: Run, few: Path, simulator: SimulatorAdmin, tmp_path: Path
) -> None:
    await simulator.gate(closed=True)
    job_id = (await parley("auto-analyze", few, "--detach", "--provider", "anthropic")).out.strip()
    await simulator.requests(at_least=1)
    ran = await parley("results", job_id, "--export", tmp_path / "labels.csv")
    await simulator.gate(closed=False)
    assert ran.code == 0
    assert "still running" in ran.err
    await parley("progress", job_id, "--follow")
    ran = await parley("results", job_id, "--export", tmp_path / "labels.csv")
    assert "still running" not in ran.err


@pytest.mark.parametrize(("option", "known"), [("--kind", "SessionAnalysis"), ("--status", "timed_out")])
async def test_an_unknown_kind_or_status_is_refused_with_the_known_ones(option: str, known: str, parley: Run) -> None:
    ran = await parley("jobs", option, "nonsense")
    assert (ran.code, known in ran.err) == (2, True)


async def test_the_client_lists_and_imports_by_text_path(client: Client, few: Path) -> None:
    dataset = await client.import_chats(str(few))
    job = await client.auto_analyze(dataset.dataset_id, user_id="ann")
    await job.result()
    [found] = await client.jobs(kind="AutoAnalyze", status="completed")
    assert (found.id, found.job_key, found.user_id, found.subject) == (job.id, job.job_key, "ann", dataset.dataset_id)
    assert (await client.job(found.job_key)).job_key == job.job_key
    with pytest.raises(InvalidInput, match="cannot be cancelled"):
        await job.cancel()


async def test_a_run_is_estimated_before_it_starts_and_has_a_budget(parley: Run, few: Path) -> None:
    ran = await parley("auto-analyze", few, "--max-cost", "$2.50", "--model", "gpt-4o-mini")
    assert ran.code == 0, ran.err
    assert "with gpt-4o-mini (estimated; at most $2.50, set by --max-cost)" in ran.err
    assert ran.err.index("estimated") < ran.err.index("auto-analyze/default")


async def test_a_limit_that_makes_streams_idle_is_said_before_the_run(parley: Run, few: Path) -> None:
    ran = await parley("auto-analyze", few, "--streams", "32", "--model", "gpt-4o-mini")
    assert ran.code == 0, ran.err
    warning = "openai: with 8 requests a second, some of 32 streams are idle while replies take less than 4 s"
    assert ran.err.index(warning) < ran.err.index("auto-analyze/default")


@pytest.mark.parametrize("amount", ["0", "-1", "1e400", "NaN", "much"])
async def test_a_budget_that_is_not_an_amount_is_refused(amount: str, parley: Run, few: Path) -> None:
    ran = await parley("auto-analyze", few, f"--max-cost={amount}")
    assert (ran.code, any(name in ran.err for name in ("max-cost", "budget"))) == (2, True)
    assert await listed(parley) == []


async def test_the_estimate_is_near_what_the_sample_took(client: Client) -> None:
    dataset = await client.import_chats(CHATS)
    estimated = await client.estimate_auto_analyze(dataset, user_id="ann", model="gpt-4o-mini")
    report = await (await client.auto_analyze(dataset.dataset_id, user_id="ann", model="gpt-4o-mini")).result()
    assert estimated is not None
    assert report.statistics is not None
    assert 0.8 < estimated.estimated_usd / report.costs.confirmed_usd < 1.4
    took = report.statistics.tokens_by_phase
    for phase in estimated.phases:
        assert 0.4 < (phase.input_tokens + phase.output_tokens) / took[phase.phase] < 2.5, phase
    assert estimated.minutes is None
    again = await client.estimate_auto_analyze(dataset, user_id="ann", model="gpt-4o-mini")
    assert again is not None
    assert (again.minutes or 0) > 0
    assert again.warnings == ()


async def test_a_dry_run_shows_what_a_run_takes_and_starts_and_stores_nothing(
    parley: Run, client: Client, few: Path
) -> None:
    ran = await parley("auto-analyze", few, "--dry-run", "--model", "gpt-4o-mini", "--streams", "2", "--json")
    assert ran.code == 0, ran.err
    found = RunEstimate.model_validate_json(ran.out)
    assert [one.phase.value for one in found.phases] == ["discovery", "conflict resolution", "re-assignment"]
    assert found.estimated_usd == sum(one.estimated_usd for one in found.phases) > 0
    shown = await parley("auto-analyze", few, "--dry-run", "--model", "gpt-4o-mini")
    assert "discovery" in shown.out
    assert "no reply of gpt-4o-mini is on record" in shown.out
    assert await listed(parley) == []
    assert not (await client.import_chats(few)).known


async def test_a_dry_run_of_an_invalid_file_names_the_line(parley: Run, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text('{"session_id": 1}\n', encoding="utf-8")
    ran = await parley("auto-analyze", path, "--dry-run")
    assert (ran.code, "chats.jsonl: line 1" in ran.err) == (2, True)
