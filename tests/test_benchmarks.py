"""How `python -m benchmarks` ends where a benchmark cannot be measured."""

from typing import Any

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import calling
from benchmarks.options import Options
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


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (("calling", "--only", "memory", "--only", "kills"), ["memory", "kills"]),
        (("calling",), ["loads", "kills", "database", "memory", "speech"]),
        (("calling", "faults", "--only", "clock"), ["loads", "kills", "database", "memory", "speech"]),
    ],
)
def test_only_the_chosen_cases_are_run(
    arguments: tuple[str, ...], chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def run(_: list[str], options: Options) -> dict[str, Any]:
        seen.extend(options.chosen(calling.CASES))
        return {}

    monkeypatch.setattr(benchmarks, "_run", run)
    assert benchmarks.main([*arguments]) == 0
    assert seen == chosen


def test_a_case_of_another_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmarks.main(["calling", "--only", "clock"])
    assert "--only clock: not a case of calling" in capsys.readouterr().err
