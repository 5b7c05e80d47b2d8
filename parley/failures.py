"""Why a job ended without a result, from Temporal's chain of failures."""

from temporalio.exceptions import ApplicationError, is_cancelled_exception

from parley.domain.errors import (
    BreakerOpen,
    IdempotencyConflict,
    JobFailed,
    ParleyError,
    ProviderUnavailable,
    RateLimited,
)
from parley.domain.text import one_line

REASON_CHARACTERS = 500
# Their first detail is the wait that a provider asks for, in seconds.
OUTAGES = {error.__name__ for error in (BreakerOpen, ProviderUnavailable, RateLimited)}


def coded_failure(error: BaseException | None) -> ApplicationError | None:
    """The outermost failure that has one of Parley's error codes; None where there is none."""
    while error is not None and not (isinstance(error, ApplicationError) and error.type):
        error = error.__cause__
    return error


def job_failure(error: BaseException) -> ParleyError:
    """The error for the caller of a job that this error stopped."""
    if is_cancelled_exception(error):
        return JobFailed("Cancelled", "the job was cancelled; results that are paid for stay stored")
    failure = coded_failure(error)
    if failure is None:
        return JobFailed(type(error).__name__, str(error))
    if failure.type == IdempotencyConflict.__name__:
        return IdempotencyConflict(failure.message)
    retry_after = float(failure.details[0]) if failure.type in OUTAGES and failure.details else None
    return JobFailed(failure.type or "", failure.message, retry_after=retry_after)


def reason_of(error: BaseException) -> str:
    """Why a workflow failed, in one line: the code of the error and its message. `Cancelled` for a cancelled one."""
    if is_cancelled_exception(error):
        return "Cancelled"
    failure = coded_failure(error)
    if failure is not None:
        return one_line(f"{failure.type}: {failure.message}", REASON_CHARACTERS)
    code = error.code if isinstance(error, ParleyError) else type(error).__name__
    return one_line(f"{code}: {error}", REASON_CHARACTERS)
