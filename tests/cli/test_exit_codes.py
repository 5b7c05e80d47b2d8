"""Exit code 2 means that the caller can correct something, 1 that a run failed."""

from pathlib import Path

import pytest

from parley.cli.main import CORRECTABLE, report_error
from parley.domain import errors
from parley.domain.errors import BadRequest, ContextTooLong, InvalidInput, JobFailed, NotFound, ParleyError, Unreachable
from starter.embedded import StackRunning

FAILED_RUNS = [
    "BadRequest",
    "ContextTooLong",
    "ProviderUnavailable",
    "BudgetExhausted",
    "Cancelled",
    "ZeroDivisionError",
]


@pytest.mark.parametrize("reason", sorted(CORRECTABLE))
def test_a_job_that_failed_on_its_input_exits_with_2(reason: str):
    assert report_error(JobFailed(reason, "it failed"), debug=False) == 2


@pytest.mark.parametrize("reason", FAILED_RUNS)
def test_a_job_that_failed_in_its_run_exits_with_1(reason: str):
    assert report_error(JobFailed(reason, "it failed"), debug=False) == 1


@pytest.mark.parametrize(
    "error", [InvalidInput("is empty", where="a.json"), NotFound("no job"), Unreachable("no server")]
)
def test_an_error_that_the_caller_can_correct_exits_with_2(error: ParleyError):
    assert report_error(error, debug=False) == 2


@pytest.mark.parametrize("error", [BadRequest("openai", "no such model"), ContextTooLong("openai", "too long")])
def test_a_refusal_by_a_provider_exits_with_1(error: ParleyError):
    assert report_error(error, debug=False) == 1


def test_a_stack_that_runs_already_exits_with_1(tmp_path: Path):
    assert report_error(StackRunning(tmp_path, 1, None), debug=False) == 1


def test_every_correctable_code_is_an_error_of_parley():
    assert all(issubclass(getattr(errors, code), ParleyError) for code in CORRECTABLE)
