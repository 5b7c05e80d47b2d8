"""The public API is typed: two strict type checkers accept a service that uses all of it."""

import ast
import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import parley

SERVICE = Path(__file__).with_name("typed_service.py")
CLASSES = (
    parley.Backend,
    parley.Client,
    parley.AnalysisHandle,
    parley.AutoAnalyzeHandle,
    parley.ConversationHandle,
    parley.UserMemory,
    parley.Reports,
    parley.WorkspaceConfiguration,
    parley.Housekeeping,
)
TREE = ast.parse(SERVICE.read_text(encoding="utf-8"))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A directory with the service alone, so that `parley` is an installed package for it."""
    shutil.copy(SERVICE, tmp_path)
    return tmp_path


def check(command: list[str | Path], directory: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = command
    tool = Path(sys.executable).with_name(str(program))
    return subprocess.run([tool, *arguments], cwd=directory, capture_output=True, text=True, check=False, timeout=170)


def test_mypy_strict_accepts_the_service_and_finds_a_wrong_type(elsewhere: Path):
    """In one test: the second check uses the cache of the first."""
    command = ["mypy", "--strict", "--python-executable", sys.executable, SERVICE.name]
    done = check(command, elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = SERVICE.read_text(encoding="utf-8").replace('"max_tokens": 200', '"max_tokens": "many"')
    (elsewhere / SERVICE.name).write_text(wrong, encoding="utf-8")
    done = check(command, elsewhere)
    assert "max_tokens" in done.stdout
    assert "Found 1 error" in done.stdout


def test_pyright_strict_accepts_the_service(elsewhere: Path):
    (elsewhere / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "pythonVersion": "3.11"}')
    done = check(["basedpyright", "--pythonpath", sys.executable, SERVICE.name], elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_names_every_public_name():
    imported = {alias.name for node in ast.walk(TREE) if isinstance(node, ast.ImportFrom) for alias in node.names}
    loaded = {node.id for node in ast.walk(TREE) if isinstance(node, ast.Name)}
    assert {*parley.__all__} <= imported & loaded


def public_members(kind: type) -> Iterator[str]:
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
            yield name


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_service_uses_every_public_method(kind: type):
    used = {node.attr for node in ast.walk(TREE) if isinstance(node, ast.Attribute)}
    assert {*public_members(kind)} <= used


@pytest.mark.parametrize("options", [parley.GenerateOptions, parley.AutoAnalyzeOptions], ids=lambda kind: kind.__name__)
def test_the_service_names_every_option(options: type):
    arguments = {node.arg for node in ast.walk(TREE) if isinstance(node, ast.keyword)}
    keys = {node.value for node in ast.walk(TREE) if isinstance(node, ast.Constant)}
    assert {*options.__annotations__} <= arguments | keys
