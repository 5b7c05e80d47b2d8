"""What every workflow does for its operators: say that it waits, refuse an update, and keep its history short."""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from parley import visibility
from parley.domain.errors import ParleyError


def show_waiting(reason: str, pause: timedelta) -> None:
    """Show an operator that the workflow waits, and why."""
    workflow.set_current_details(f"waiting {pause.total_seconds():.0f} s: {visibility.plain(reason)}")


def waiting_note(problems: str, pause: timedelta) -> str:
    """What the progress of a job says while all providers are down."""
    return f"waiting {pause.total_seconds():.0f} s for a provider to become available: {problems}"


def refused(error: ParleyError) -> ApplicationError:
    """Why an update is not accepted. It leaves nothing in the history."""
    return ApplicationError(str(error), type=error.code, non_retryable=True)


def history_is_long() -> bool:
    """Whether it is time to continue as new."""
    return workflow.info().is_continue_as_new_suggested()
