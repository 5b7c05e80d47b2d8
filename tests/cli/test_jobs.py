"""The job commands: output, exit codes, one-line errors, and nothing stored after an error."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from parley import Client
from parley.client.reading import read_session
from tests.cli.command import Run
from tests.parts import SAMPLES, SimulatorAdmin, run_sql

SAMPLE = SAMPLES / "cold-call-logistics.json"
SHORT, RECORDING = SAMPLES / "gatekeeper-dental-clinic.json", SAMPLES / "gatekeeper-dental-clinic.ogg"

CHATS = SAMPLES / "chats" / "support.jsonl"


@pytest.mark.usefixtures("worker")
class TestJobs:
    async def test_analyze_takes_a_recording_alone_or_a_transcript(self, parley: Run, tmp_path: Path) -> None:
        ran = await parley("analyze", RECORDING, "--user", "ann")
        assert (ran.code, "hearing by" in ran.out, "is taken for the user" in ran.out) == (0, True, True)
        (tmp_path / "meeting.srt").write_text("1\n00:00:01,000 --> 00:00:04,000\nAnn: How many lifts have you?\n")
        assert (await parley("analyze", tmp_path / "meeting.srt", "--user-speaker", "Ann")).code == 0
        twice = await parley("analyze", RECORDING, "--audio", RECORDING)
        assert (twice.code, "--audio: is a second recording" in twice.err) == (2, True)

    async def test_analyze_prints_the_result_its_cost_and_the_models(self, parley: Run) -> None:
        ran = await parley("analyze", SHORT, "--audio", RECORDING)
        assert ran.code == 0, ran.err
        for expected in ("fast_parallel", "simulator/claude", "the simulator answered", "confirmed $", "strengths"):
            assert expected in ran.out

    async def test_analyze_shows_a_provisional_result_and_progress_the_final_one(
        self, parley: Run, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("rate_limit", times=2, retry_after=2)
        ran = await parley("analyze", SAMPLE)
        assert (ran.code, "provisional: coaching will amend it" in ran.out) == (0, True)
        ran = await parley("progress", ran.err.split("\n")[0], "--follow")
        assert (ran.code, "provisional" in ran.out, "coaching by simulator/" in ran.out) == (0, False, True)

    async def test_analyze_with_a_wait_shows_the_final_result(self, parley: Run, simulator: SimulatorAdmin) -> None:
        await simulator.fault("rate_limit", times=2, retry_after=2)
        ran = await parley("analyze", SAMPLE, "--wait")
        assert (ran.code, "provisional" in ran.out, "coaching by simulator/" in ran.out) == (0, False, True)

    async def test_a_report_is_written_when_the_job_has_ended_and_again_later(
        self, parley: Run, tmp_path: Path
    ) -> None:
        page, later = tmp_path / "report.html", tmp_path / "later.html"
        ran = await parley("analyze", SHORT, "--audio", RECORDING, "--html", page)
        assert ran.code == 0, ran.err
        assert f"report written to {page}" in ran.err
        again = await parley("results", ran.err.split("\n")[0], "--html", later, "--json")
        assert json.loads(again.out)["analysis"]["coaching"]["strengths"][0]["moment"]["quote"]
        assert page.read_text() == later.read_text()
        assert "data:audio/ogg;base64," in page.read_text()

    async def test_a_report_needs_an_analysis_and_a_place(self, parley: Run, tmp_path: Path) -> None:
        ran = await parley("analyze", SHORT, "--html", tmp_path / "nowhere" / "report.html")
        assert (ran.code, "cannot be written: No such file" in ran.err) == (2, True)
        ran = await parley("analyze", SHORT, "--html", tmp_path / "report.html", "--detach")
        assert (ran.code, "--html: the report is written when the job has ended" in ran.err) == (2, True)

    async def test_a_rubric_file_decides_what_is_rated(self, parley: Run, tmp_path: Path) -> None:
        levels = 'levels = { 0 = "none", 100 = "open ones" }'
        skill = f'[[skill]]\nid = "questions"\ntitle = "Asking"\nweight = 1\n{levels}\n'
        own = tmp_path / "own.toml"
        own.write_text(f'id = "own"\nversion = 1\ntitle = "Our demo"\n{skill}')
        ran = await parley("analyze", SHORT, "--rubric", own)
        assert ran.code == 0, ran.err
        assert "by own@1" in ran.out
        assert "Asking" in ran.out
        own.write_text(f'id = "own"\nversion = 1\ntitle = "Our demo"\n{skill.replace("100", "10")}')
        ran = await parley("analyze", SHORT, "--rubric", own)
        assert ran.code == 2
        assert 'own.toml: skill.0: the levels of questions must say what 100 means: add 100 = "…"' in ran.err

    async def test_json_is_alone_on_stdout(self, parley: Run) -> None:
        ran = await parley("analyze", SAMPLE, "--json")
        report = json.loads(ran.out)
        assert report["analysis"]["coaching"]["processed"] is True
        assert report["costs"]["lines"][0]["simulated"] is True

    async def test_a_detached_job_is_found_again_by_its_id(self, parley: Run) -> None:
        job_id = (await parley("analyze", SAMPLE, "--detach")).out.strip()
        followed = await parley("progress", job_id, "--follow", "--json")
        assert json.loads(followed.out)["status"] == "completed"
        assert "completed" in (await parley("progress", job_id)).out
        assert json.loads((await parley("progress", job_id, "--json")).out)["done"][-1] == "finish"
        assert json.loads((await parley("results", job_id, "--json")).out)["id"] == job_id
        assert "overall" in (await parley("results", job_id)).out

    async def test_costs_and_audit_after_a_job(self, parley: Run) -> None:
        await parley("analyze", SAMPLE)
        costs = json.loads((await parley("costs", "--since", "1h", "--json")).out)
        assert costs["energy_charged"] == 5
        assert "session_coaching" in (await parley("costs")).out
        clean = await parley("ledger", "audit")
        assert (clean.code, "agrees" in clean.out) == (0, True)

    async def test_an_audit_with_findings_exits_1_with_the_rows(
        self, parley: Run, database_url: str, client: Client
    ) -> None:
        await parley("analyze", SAMPLE)
        await run_sql(database_url, "UPDATE ai_usage_logs SET energy_charged = 1")
        ran = await parley("ledger", "audit", "--json")
        assert ran.code == 1
        assert {row["check"] for row in json.loads(ran.out)} == {"an account's charges are its usage rows"}

    @pytest.mark.parametrize(("model", "provider"), [("gpt-4o-mini", "openai"), ("claude-haiku-4-5", "anthropic")])
    async def test_a_model_selects_its_provider(
        self, model: str, provider: str, parley: Run, simulator: SimulatorAdmin
    ) -> None:
        ran = await parley("analyze", SAMPLE, "--model", model)
        assert ran.code == 0, ran.err
        assert {(request["provider"], request["model"]) for request in await simulator.requests()} == {
            (provider, model)
        }

    async def test_a_labelling_run_prints_its_id_at_once_and_calls_only_its_model(
        self, parley: Run, simulator: SimulatorAdmin, tmp_path: Path
    ) -> None:
        few = tmp_path / "few.jsonl"
        few.write_text("".join(CHATS.read_text().splitlines(keepends=True)[:2]))
        ran = await parley("auto-analyze", few, "--model", "gpt-4o-mini")
        assert ran.code == 0, ran.err
        counted, estimate, _, job_id = ran.err.splitlines()
        assert counted.startswith("2 sessions imported, ")
        assert "with gpt-4o-mini (estimated" in estimate
        assert (await parley("results", job_id)).code == 0
        assert {request["model"] for request in await simulator.requests()} == {"gpt-4o-mini"}

    async def test_a_cancelled_job_exits_1_with_that_reason(self, parley: Run, simulator: SimulatorAdmin) -> None:
        await simulator.gate(closed=True)
        job_id = (await parley("analyze", SAMPLE, "--detach")).out.strip()
        await simulator.requests(at_least=1)
        assert (await parley("cancel", job_id)).code == 0
        ran = await parley("progress", job_id, "--follow")
        assert (ran.code, ran.err) == (1, "parley: the job was cancelled; results that are paid for stay stored\n")
        await simulator.gate(closed=False)

    async def test_energy_is_granted_once_per_key(self, parley: Run) -> None:
        for _ in range(2):
            await parley("energy", "grant", "rep-1", "50", "--key", "invoice 7", "--tier", "pro")
        balance = json.loads((await parley("energy", "show", "rep-1", "--json")).out)
        assert (balance["available"], balance["tier"]) == (150, "pro")


TURN = {"role": "rep", "start": 0, "end": 2, "text": "Hello there"}
GOOD = {"session_id": "s", "user_id": "u", "duration_seconds": 10, "turns": [TURN]}


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{", "is not JSON"),
    "not UTF-8": (b'{"session_id": "\xff"}', "is not UTF-8"),
    "empty": (b"", "is empty"),
    "no turns": (json.dumps({**GOOD, "turns": []}).encode(), "turns"),
    "negative duration": (json.dumps({**GOOD, "duration_seconds": -1}).encode(), "duration_seconds"),
    "missing duration": (
        json.dumps({key: value for key, value in GOOD.items() if key != "duration_seconds"}).encode(),
        "duration_seconds",
    ),
    "10 MB": (json.dumps({**GOOD, "turns": [{**TURN, "text": "x" * 10_000_000}]}).encode(), "bytes"),
    "NUL": (json.dumps({**GOOD, "turns": [{**TURN, "text": "a\0b"}]}).encode(), "turns.0.text"),
}


class TestBadInput:
    @pytest.mark.parametrize("name", BAD_FILES)
    async def test_a_bad_file_is_one_line_that_names_file_and_field(
        self, name: str, parley: Run, tmp_path: Path, database_url: str, simulator: SimulatorAdmin
    ) -> None:
        content, field = BAD_FILES[name]
        path = tmp_path / "session.json"
        path.write_bytes(content)
        ran = await parley("analyze", path)
        assert ran.code == 2
        assert ran.err.startswith("parley: session.json: ")
        assert field in ran.err
        assert ran.err.count("\n") == 1
        await nothing_happened(database_url, simulator)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (("--audio", SAMPLE), "is not audio"),
            (("--audio", "missing.wav"), "missing.wav"),
            (("--provider", "openai", "--model", "gpt-17-imaginary"), "gpt-17-imaginary"),
            (("--provider", "openai", "--model", "whisper-1"), "no token price"),
            (("--model", "gpt-17-imaginary"), "--provider"),
            (("--provider", "elevenlabs"), "'anthropic', 'openai', 'local'"),
            (("--provider", "unknown"), "unknown"),
        ],
    )
    async def test_a_bad_option_is_refused_before_anything_is_stored(
        self, arguments: tuple[str, ...], expected: str, parley: Run, database_url: str, simulator: SimulatorAdmin
    ) -> None:
        ran = await parley("analyze", SAMPLE, *arguments)
        assert ran.code == 2
        assert expected in ran.err
        await nothing_happened(database_url, simulator)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (("--streams", "0"), "Invalid value for '--streams'"),
            (("--sessions-per-stream", "0"), "auto-analyze: sessions_per_stream: "),
            (("--sessions-per-stream", "many"), "--sessions-per-stream: must be a number or auto, not 'many'"),
            (("--model", "gpt-17-imaginary"), "--provider"),
            (("--provider", "openai", "--model", "gpt-17-imaginary"), "gpt-17-imaginary"),
            (("--provider", "elevenlabs"), "'anthropic', 'openai', 'local'"),
        ],
    )
    async def test_bad_options_are_refused_before_the_file_is_imported(
        self, arguments: tuple[str, ...], expected: str, parley: Run, database_url: str, simulator: SimulatorAdmin
    ) -> None:
        ran = await parley("auto-analyze", CHATS, *arguments)
        assert ran.code == 2
        assert expected in ran.err
        await nothing_happened(database_url, simulator)

    async def test_sample_bounds_in_the_wrong_order_are_named(
        self, parley: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DISCOVERY_MIN_SESSIONS", "151")
        ran = await parley("costs")
        message = "parley: DISCOVERY_MIN_SESSIONS (151) must not be above DISCOVERY_MAX_SESSIONS (150)\n"
        assert (ran.code, ran.err) == (2, message)

    async def test_an_invalid_sample_size_is_named(self, parley: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DISCOVERY_MAX_SESSIONS", "5001")
        ran = await parley("auto-analyze", CHATS)
        assert (ran.code, ran.err.startswith("parley: DISCOVERY_MAX_SESSIONS: ")) == (2, True)

    @pytest.mark.usefixtures("worker")
    async def test_a_provider_without_a_key_is_named(self, parley: Run, simulator: SimulatorAdmin) -> None:
        ran = await parley("analyze", SAMPLE, "--provider", "local")
        assert ran.code == 2
        assert "LOCAL_BASE_URL" in ran.err
        assert await simulator.requests() == []

    async def test_an_unreachable_database_is_named(self, parley: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://parley:hush@127.0.0.1:1/parley")
        ran = await parley("costs")
        assert (ran.code, "127.0.0.1:1 does not answer" in ran.err, "hush" in ran.err) == (2, True, False)

    async def test_an_unreachable_temporal_is_named(
        self, parley: Run, monkeypatch: pytest.MonkeyPatch, database_url: str, simulator: SimulatorAdmin
    ) -> None:
        monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
        ran = await parley("analyze", SAMPLE)
        assert ran.code == 2
        assert ran.err == "parley: TEMPORAL_ADDRESS: no Temporal server answers at 127.0.0.1:1\n"
        await nothing_happened(database_url, simulator)

    async def test_a_missing_database_error_says_what_to_do(self, parley: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DATABASE_URL")
        ran = await parley("costs")
        assert (ran.code, "parley up" in ran.err) == (2, True)

    @pytest.mark.parametrize("command", ["progress", "results", "cancel"])
    async def test_an_unknown_job_is_named(self, command: str, parley: Run) -> None:
        ran = await parley(command, "no-such-job")
        assert (ran.code, "no-such-job" in ran.err) == (2, True)

    @pytest.mark.parametrize("since", ["yesterday", "", "9999999999d"])
    async def test_a_bad_time_is_named(self, since: str, parley: Run) -> None:
        ran = await parley("costs", "--since", since or " ")
        assert (ran.code, "--since" in ran.err) == (2, True)

    async def test_debug_shows_the_traceback(self, parley: Run) -> None:
        ran = await parley("--debug", "results", "no-such-job")
        assert "Traceback" in ran.err

    async def test_a_wrong_setting_is_named(self, parley: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PARLEY_LEASE_SECONDS", "soon")
        ran = await parley("costs")
        assert (ran.code, "PARLEY_LEASE_SECONDS" in ran.err) == (2, True)


async def nothing_happened(database_url: str, simulator: SimulatorAdmin) -> None:
    for table in (
        "datasets",
        "chat_sessions",
        "sessions",
        "recordings",
        "session_analyses",
        "paid_requests",
        "energy_entries",
    ):
        assert await run_sql(database_url, f"SELECT count(*) FROM {table}") == [{"count": 0}]
    assert await simulator.requests() == []


async def test_the_process_exits_with_the_commands_code(tmp_path: Path) -> None:
    """In a real process, because an aborting interpreter would exit with another code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "parley", "analyze", str(tmp_path / "missing.json"),
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert b"missing.json" in err


def test_the_sample_session_is_valid() -> None:
    assert read_session(SAMPLE).turns
