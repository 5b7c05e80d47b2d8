import pytest

from parley.domain import errors
from parley.domain.errors import Billed, InvalidInput, ProviderError, ProviderUnavailable
from parley.domain.requests import Usage

# What Temporal retries, what may have cost money, and what counts as an outage.
PROVIDER_ERRORS = [
    ("RateLimited", True, Billed.NO, False),
    ("ProviderUnavailable", True, Billed.UNKNOWN, True),
    ("BreakerOpen", False, Billed.NO, False),
    ("ContextTooLong", False, Billed.NO, False),
    ("QuotaExceeded", False, Billed.NO, False),
    ("AuthenticationFailed", False, Billed.NO, False),
    ("BadRequest", False, Billed.NO, False),
    ("ContentFiltered", False, Billed.NO, False),
    ("EmptyReply", False, Billed.YES, False),
    ("TruncatedReply", True, Billed.UNKNOWN, False),
    ("MalformedReply", True, Billed.UNKNOWN, False),
]


@pytest.mark.parametrize(("name", "retryable", "billed", "trips"), PROVIDER_ERRORS)
def test_each_error_says_whether_to_retry_whether_it_cost_and_whether_it_is_an_outage(
    name: str, retryable: bool, billed: Billed, trips: bool
):
    error: ProviderError = getattr(errors, name)("openai", "went wrong")
    assert (error.retryable, error.billed, error.trips_breaker) == (retryable, billed, trips)
    assert (error.code, str(error)) == (name, "openai: went wrong")


def test_the_table_above_is_complete():
    assert {name for name, *_ in PROVIDER_ERRORS} == {kind.__name__ for kind in ProviderError.__subclasses__()}


def test_counted_usage_means_billed():
    assert ProviderUnavailable("x", "y", usage=Usage(input_tokens=1)).billed is Billed.YES
    assert ProviderUnavailable("x", "y", billed=Billed.NO).billed is Billed.NO


@pytest.mark.parametrize(
    ("places", "line"),
    [
        ({}, "is blank"),
        ({"where": "a.json"}, "a.json: is blank"),
        ({"where": "a.json", "field": "turns.0.text"}, "a.json: turns.0.text: is blank"),
    ],
)
def test_bad_input_is_one_line_with_file_and_field(places: dict[str, str], line: str):
    assert str(InvalidInput("is blank", **places)) == line
