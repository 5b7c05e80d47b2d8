"""The architecture: import direction, deterministic workflow code, no network in tests, no secrets in errors."""

import ast
import asyncio
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from parley.settings import Settings, variable
from tests.parts import ROOT, LeftLoopback, source_files

SDKS = ("openai", "anthropic", "elevenlabs")
ENGINES = ("temporalio", "sqlalchemy", "sqlmodel", "psycopg", "httpx", "httpx2", "settings")
DOMAIN = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "parley" / "domain").rglob("[!_]*.py"))
]
KEY = "sk-0123456789-very-secret"
# What workflows run: Temporal's sandbox does not check modules that are passed through.
REPLAYED = [path for package in ("parley/domain", "workflows") for path in sorted((ROOT / package).rglob("*.py"))]
# The engine of workflows/fallback.py returns the time of its workflow.
DETERMINISTIC_CLOCKS = {"workflow.now", "self.now", "engine.now", "self._engine.now"}
CLOCKS = {"now", "utcnow", "today", "time", "monotonic", "time_ns", "perf_counter"}
IMPURE_BUILTINS = {"open", "input", "print", "hash", "id", "exec", "eval", "__import__"}


def loaded_by(*modules: str) -> set[str]:
    """The top-level packages that a new process has loaded after importing these modules."""
    script = f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_the_import_contracts_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout
    assert " kept, 0 broken" in done.stdout


@pytest.mark.parametrize("module", ["workflows.session_analysis", "worker", "parley.providers.registry", "parley"])
def test_no_vendor_sdk_is_imported_before_a_call(module: str):
    assert not loaded_by(module) & {*SDKS}


def test_no_library_of_sound_is_imported_before_a_recording_is_measured():
    assert not loaded_by("worker", "workflows.session_analysis", "parley") & {"av", "praatfan_rust"}
    assert not loaded_by("workflows.session_analysis", "parley.cli.main") & {"numpy"}


def nondeterministic_calls(source: str) -> list[str]:
    """Calls in a module whose result differs in a replay, or on another machine."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [call.id for call in calls if isinstance(call, ast.Name)]
    clocks = [ast.unparse(call) for call in calls if isinstance(call, ast.Attribute) and call.attr in CLOCKS]
    return [
        *(name for name in named if name in IMPURE_BUILTINS),
        *(name for name in clocks if name not in DETERMINISTIC_CLOCKS),
    ]


@pytest.mark.parametrize("path", REPLAYED, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_that_a_replay_runs_is_deterministic(path: Path):
    assert not nondeterministic_calls(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "call", ["datetime.now(UTC)", "date.today()", "time.time()", "open('x')", "hash('x')", "id(x)"]
)
def test_a_nondeterministic_call_is_found(call: str):
    assert nondeterministic_calls(f"def run():\n    return workflow.now(), {call}") == [call.partition("(")[0]]


def programs() -> list[Path]:
    """The programs of this repository that use Temporal's SDK."""
    guard, uses_temporal = (
        '\nif __name__ == "__main__":',
        re.compile(r"(?m)^\s*(from|import) (parley|temporalio|worker)\b"),
    )
    texts = {path: path.read_text(encoding="utf-8") for path in source_files(".py")}
    return [path for path, text in texts.items() if guard in text and uses_temporal.search(text)]


def test_programs_that_use_temporal_end_without_the_interpreters_shutdown():
    """Its threads can abort the interpreter during the shutdown (sdk-python#300)."""
    assert len(programs()) >= 8
    assert [path for path in programs() if "leave(" not in path.read_text(encoding="utf-8")] == []


def test_domain_loads_no_engine():
    """The price list imports an HTTP client, which it does not use."""
    assert not (loaded_by(*DOMAIN) - loaded_by("genai_prices")) & {*SDKS, *ENGINES}


def test_a_connection_to_another_machine_fails():
    with socket.socket() as outward, pytest.raises(LeftLoopback, match=r"203\.0\.113\.1"):
        outward.connect(("203.0.113.1", 80))


async def test_a_connection_of_the_event_loop_to_another_machine_fails():
    with pytest.raises(LeftLoopback, match=r"203\.0\.113\.1"):
        await asyncio.open_connection("203.0.113.1", 443)


def test_a_name_lookup_fails():
    with pytest.raises(LeftLoopback, match=r"example\.org"):
        socket.getaddrinfo("example.org", 443)


def test_loopback_is_open():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]):
        pass


SECRETS = {
    "openai_api_key": KEY,
    "anthropic_api_key": KEY,
    "elevenlabs_api_key": KEY,
    "local_api_key": KEY,
    "database_url": f"postgresql://parley:{KEY}@127.0.0.1/parley",
}


def test_settings_never_print_a_secret():
    given = Settings(**SECRETS)
    texts = (repr(given), str(given), given.model_dump_json(), str(given.model_dump()), repr(given.openai_api_key))
    assert not any(KEY in text for text in texts)
    assert given.openai_api_key is not None
    assert given.openai_api_key.get_secret_value() == KEY


@pytest.mark.parametrize(
    "mistake",
    [
        {"local_base_url": "http://127.0.0.1:1"},
        {"provider_timeout_seconds": "soon"},
        {"openai_api_key": f"{KEY}\nX-Injected: 1"},
        {"anthropic_api_key": f"{KEY}…"},
    ],
    ids=lambda mistake: next(iter(mistake)),
)
def test_an_error_in_the_settings_does_not_contain_secrets(mistake: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    for name, value in ({"openai_api_key": KEY} | mistake).items():
        monkeypatch.setenv(variable(name), value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert KEY[:5] not in f"{caught.value} {caught.value!r}"


def test_a_key_with_whitespace_around_it_works(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("ANTHROPIC_API_KEY", " \n")
    given = Settings()
    assert given.openai_api_key is not None
    assert given.openai_api_key.get_secret_value() == KEY
    assert given.anthropic_api_key is None
