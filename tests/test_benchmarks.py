"""How `python -m benchmarks` ends where a benchmark cannot be measured."""

from typing import Any

import pytest

from benchmarks import __main__ as benchmarks
from parley import Unreachable


@pytest.mark.parametrize(
    ("problem", "shown"),
    [(TimeoutError(), "benchmarks: took too long\n"), (Unreachable("it is gone"), "benchmarks: it is gone\n")],
)
def test_it_says_why(
    problem: Exception, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails(*_: Any) -> Any:
        raise problem

    monkeypatch.setattr(benchmarks, "_run", fails)
    monkeypatch.setattr("sys.argv", ["benchmarks", "retention"])
    assert benchmarks.main() == 1
    assert capsys.readouterr().err == shown
