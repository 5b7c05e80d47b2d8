"""How the program starts: what `--help` loads, its list of commands, `--version`, and Ctrl-C while it loads."""

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.main import get_command, get_group

from parley.cli.main import COMMANDS, app
from starter.embedded import Addresses
from tests.cli.command import Run
from tests.parts import ROOT

# Each of these takes longer to load than everything that `--help` needs.
SLOW = {"temporalio", "sqlalchemy", "sqlmodel", "psycopg", "pydantic", "httpx", "httpx2", "genai_prices", "alembic"}
LISTED = """
import json, sys
from parley.cli.main import execute
code = execute(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def loaded_by(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LISTED, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    code, modules = json.loads(done.stderr)
    assert code == 0
    return set(modules)


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("--version",)])
def test_help_and_version_load_no_command_and_no_engine(arguments: tuple[str, ...]) -> None:
    modules = loaded_by(*arguments)
    assert "parley.cli.main" in modules
    assert not SLOW & {name.partition(".")[0] for name in modules}
    assert not modules & {f"parley.cli.{command.module}" for command in COMMANDS.values()}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_shows_the_first_sentence_of_each_command(name: str) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert (command.help or "").splitlines()[0] == COMMANDS[name].help


def test_every_command_is_listed() -> None:
    for module in {command.module for command in COMMANDS.values()}:
        found = {*get_group(import_module(f"parley.cli.{module}").app).commands}
        listed = {name for name, command in COMMANDS.items() if command.module == module}
        assert listed in (found, {module})


async def test_the_version_is_the_package_s(parley: Run) -> None:
    ran = await parley("--version")
    assert (ran.code, ran.out) == (0, f"parley {version('parley')}\n")


@pytest.mark.parametrize("command", [("jobs", "-h"), ("budget", "show", "-h"), ("-h",)])
async def test_h_is_help(command: tuple[str, ...], parley: Run) -> None:
    ran = await parley(*command)
    assert ran.code == 0
    assert "Usage:" in ran.out


async def test_a_misspelled_command_is_one_line_with_the_name_that_is_meant(parley: Run) -> None:
    ran = await parley("anlyze")
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "analyze" in ran.err


@pytest.mark.parametrize("module", ["parley", "starter"])
def test_ctrl_c_while_the_program_loads_is_silent(module: str, tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", module, "up"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("log", ["loud", "silent"])
def test_commands_print_no_log_of_temporals_sdk(log: str, stack: Addresses) -> None:
    """The SDK writes its log to the process's own stdout, past Python."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.cut_off", stack.temporal_address, log],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    assert bool(done.stdout + done.stderr) == (log == "loud")
