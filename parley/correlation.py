"""What connects a request over HTTP with the jobs that it starts and with the lines that are logged for it."""

from collections.abc import Mapping
from contextvars import ContextVar

HTTP_REQUEST_ID, CORRELATION_ID = "http_request_id", "correlation_id"

correlation: ContextVar[Mapping[str, str]] = ContextVar("correlation", default={})  # noqa: B039 - it is never changed
"""The ids of the request that this task serves; empty outside of one. Each started workflow has them in its memo."""
