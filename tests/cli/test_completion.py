"""Shell completion: it installs, and it completes commands and options."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("parley")


def test_completion_installs_for_bash(tmp_path: Path):
    """A shell must be the parent process, because the command detects the shell from it."""
    done = subprocess.run(
        ["bash", "-c", f"'{COMMAND}' --install-completion; exit $?"],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    script = tmp_path / ".bash_completions" / "parley.sh"
    assert "_PARLEY_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["parley", "ge"], {"generate"}),
        (["parley", "au"], {"auto-analyze"}),
        (["parley", "budget", ""], {"show", "set"}),
        (["parley", "analyze", "--run"], {"--run-name"}),
    ],
)
def test_a_word_is_completed(words: list[str], expected: set[str]):
    environment = {
        "_PARLEY_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [COMMAND], env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )
    assert {*done.stdout.split()} == expected, done.stderr
