"""Logs: a step's messages name its activity; an expected failure is one line, a bug has its traceback."""

import asyncio
import copy
import logging

from temporalio import activity
from temporalio.exceptions import FailureError

from parley.domain.errors import ParleyError
from parley.domain.text import one_line

FAILURE_CHARACTERS = 300
# A caller's input, an outage, a cancelled job. A bug is logged with its own error where it is caught: `boundary`.
EXPECTED = (FailureError, ParleyError, asyncio.CancelledError)


def step_logger(name: str) -> activity.LoggerAdapter:
    """The logger of a module whose code runs in activities and inline. In an activity it adds its details."""
    return activity.LoggerAdapter(logging.getLogger(name), None)


class WorkerFormatter(logging.Formatter):
    """Formats the records of Temporal's SDK, which logs the traceback of every attempt that failed."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, with the type and the message of an expected failure in place of its traceback."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, EXPECTED):
            record = copy.copy(record)
            failure = one_line(error, FAILURE_CHARACTERS) or type(error).__name__
            record.msg, record.args = f"{record.getMessage()}: {failure}", None
            record.exc_info = record.exc_text = None
        return super().format(record)
