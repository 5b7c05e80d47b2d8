"""The one place that turns errors into HTTP: problem details (RFC 9457), and the vendors' shapes on their paths.

The SDKs of OpenAI and Anthropic repeat a request by themselves after 408, 409, 429 and 5xx. These statuses are used
where a repetition can help; where one of them is required nevertheless, `x-should-retry: false` stops the SDKs.
"""

import math
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.console import pages
from parley.client.reading import first_problem
from parley.correlation import HTTP_REQUEST_ID, correlation
from parley.domain.errors import ErrorKind, InvalidInput, NotFound, ParleyError
from parley.domain.generate.contract import Refusal, Refused
from parley.domain.model import Model

PROBLEM = "application/problem+json"
# Of an error that passes by itself, if it names no time.
RETRY_AFTER_SECONDS = 1.0

STATUS_OF_KIND = {
    ErrorKind.INPUT: 400,
    ErrorKind.BUDGET: 402,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.CANCELLED: 409,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.BUG: 500,
}
# Errors of a provider that a repetition does not cure: the operator must act, or the request must change.
STATUS_OF_CODE = {"AuthenticationFailed": 424, "QuotaExceeded": 424, "EmptyReply": 424, "ProviderNotConfigured": 424}
# The others are of energy and budget.
STATUS_OF_REFUSAL = {
    Refused.NO_MODEL_ALLOWED: (403, ErrorKind.INPUT),
    Refused.CONTEXT_TOO_LONG: (400, ErrorKind.INPUT),
    Refused.CONTENT_FILTERED: (400, ErrorKind.INPUT),
}
RETRIED_BY_SDKS = {408, 409, 429, *range(500, 600)}
TITLES = {
    400: "The request is not valid",
    401: "A key is needed",
    402: "Energy or budget does not cover it",
    403: "The key does not have this right",
    404: "There is no such object",
    405: "The path has other methods",
    408: "The request came too slowly",
    409: "It contradicts an earlier request or the state of the job",
    413: "The body is too large",
    415: "The body has another type",
    424: "The provider cannot serve it until its account or the request is changed",
    429: "Too many requests",
    499: "The caller has left",
    500: "An error in Parley",
    503: "A server does not answer now",
}


class RequestError(ParleyError):
    """A request over HTTP that cannot be served as it is. `retry_after`: seconds, where a repetition can help."""

    kind = ErrorKind.INPUT
    status: int

    def __init__(self, message: str, *, retry_after: float | None = None, headers: Mapping[str, str] | None = None):
        self.retry_after, self.headers = retry_after, headers or {}
        super().__init__(message)


class Unauthenticated(RequestError):
    """There is no valid key in the request."""

    status = 401


class NotPermitted(RequestError):
    """The key does not have the scope that the path needs."""

    status = 403


class MethodNotAllowed(RequestError):
    """The path does not have this method."""

    status = 405


class TooSlow(RequestError):
    """The rest of the request did not come in time."""

    status = 408


class NotFinished(RequestError):
    """The job still runs."""

    kind = ErrorKind.CONFLICT
    status = 409


class BodyTooLarge(RequestError):
    """The body has more bytes than are allowed."""

    status = 413


class UnsupportedMediaType(RequestError):
    """The body's type is not one that the path reads."""

    status = 415


class TooManyRequests(RequestError):
    """The key's limit is used up."""

    kind = ErrorKind.UNAVAILABLE
    status = 429


class UnknownModel(RequestError):
    """No provider of this gateway has the model."""

    kind = ErrorKind.NOT_FOUND
    status = 404
    field = "model"


class GenerationRefused(RequestError):
    """A generation was refused before anything was paid. `reason`: the code of the refusal."""

    kind = ErrorKind.BUDGET
    status = 402

    def __init__(self, refusal: Refusal):
        self.reason = refusal.code.value
        self.status, self.kind = STATUS_OF_REFUSAL.get(refusal.code, (402, ErrorKind.BUDGET))
        super().__init__(refusal.message)


class ClientDisconnected(RequestError):
    """The caller has left: nothing reads this."""

    status = 499


class Ending(RequestError):
    """This process ends, and begins nothing new."""

    kind = ErrorKind.UNAVAILABLE
    status = 503


class Problem(Model):
    """Problem details, RFC 9457. `code`: the error's stable name. `field`: the place in the input, if one is wrong.

    `retry_after`: the seconds after which a repetition can help; None where it cannot.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    kind: ErrorKind
    field: str | None = None
    retry_after: float | None = None
    http_request_id: str | None = None


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": title, "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status, title in TITLES.items()
}


VENDOR_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": title, "content": {"application/json": {"schema": {"type": "object"}}}}
    for status, title in TITLES.items()
}


def problem_of(error: Exception) -> Problem:
    """What an error says over HTTP. An error that is not raised on purpose says nothing of its own."""
    known = _parley_error(error)
    if known is None:
        known = ParleyError("an error in Parley: its log has it under this HTTP request id")
    # A failed job says as its code why it failed: the caller of an HTTP request knows no workflow.
    code = getattr(known, "reason", known.code)
    status = getattr(known, "status", None) or STATUS_OF_CODE.get(code) or STATUS_OF_KIND[known.kind]
    return Problem(
        type=f"urn:parley:error:{code}",
        title=TITLES[status],
        status=status,
        detail=str(known),
        code=code,
        kind=known.kind,
        field=getattr(known, "field", "") or None,
        retry_after=_retry_after(known, status),
        http_request_id=correlation.get().get(HTTP_REQUEST_ID),
    )


def _parley_error(error: Exception) -> ParleyError | None:
    """What a framework's error means here; None for an error that was not raised on purpose."""
    if isinstance(error, ParleyError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, ValidationError):
        return first_problem(error, where="request")
    if isinstance(error, ClientDisconnect):
        return ClientDisconnected("the caller closed the connection before the end of the body")
    if isinstance(error, HTTPException):
        # FastAPI wraps what is raised while it reads the body.
        cause = error.__cause__
        return _parley_error(cause) if isinstance(cause, ParleyError | ClientDisconnect) else _of_framework(error)
    return None


def _invalid(error: RequestValidationError) -> InvalidInput:
    first = error.errors()[0]
    # The first part is the place in the request: body, query, path or header.
    where, *field = map(str, first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return InvalidInput(f"is not JSON: {first.get('ctx', {}).get('error', message)}", where="body")
    return InvalidInput(message, where=where, field=".".join(field)[:200])


def _of_framework(error: HTTPException) -> ParleyError:
    if error.status_code == 404:
        return NotFound("there is no such path")
    if error.status_code == 405:
        return MethodNotAllowed("the path does not have this method", headers=error.headers)
    if error.status_code < 500:
        return InvalidInput(str(error.detail), where="body")
    return ParleyError(str(error.detail))


def _retry_after(error: ParleyError, status: int) -> float | None:
    if (named := getattr(error, "retry_after", None)) is not None:
        return float(named)
    return RETRY_AFTER_SECONDS if status in (408, 503) else None


def response_of(error: Exception, path: str) -> Response:
    """The response for an error: a page in the console, the vendor's shape on a vendor's path, else problem details."""
    problem = problem_of(error)
    headers = dict(getattr(error, "headers", None) or {})
    if problem.retry_after is not None:
        headers["retry-after"] = str(math.ceil(problem.retry_after))
    elif problem.status in RETRIED_BY_SDKS:
        headers["x-should-retry"] = "false"
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    if problem.status in (408, 413):  # the rest of the body is not read
        headers["connection"] = "close"
    if path.startswith(pages.PREFIX):
        return pages.error_page(problem, headers)
    content, media_type = _shaped(problem, path)
    return JSONResponse(content, problem.status, headers, media_type)


async def answer_error(request: Request, error: Exception) -> Response:
    """The handler of every error that a path raises. One of a WebSocket is answered by the boundary."""
    if request.scope["type"] == "websocket":
        raise error
    return response_of(error, request.url.path)


def _shaped(problem: Problem, path: str) -> tuple[dict[str, Any], str]:
    if path.startswith("/v1/messages"):
        return anthropic_error(problem), "application/json"
    if path.startswith("/v1/"):
        return openai_error(problem), "application/json"
    return problem.model_dump(mode="json", exclude_none=True), PROBLEM


OPENAI_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


def openai_error(problem: Problem) -> dict[str, Any]:
    """The body of an error as OpenAI's API has it."""
    usual = "server_error" if problem.status >= 500 else "invalid_request_error"
    kind = OPENAI_TYPES.get(problem.status, usual)
    return {"error": {"message": problem.detail, "type": kind, "param": problem.field, "code": problem.code}}


def anthropic_error(problem: Problem) -> dict[str, Any]:
    """The body of an error as Anthropic's API has it, with the code beside its type."""
    kind = ANTHROPIC_TYPES.get(problem.status, "invalid_request_error")
    error = {"type": kind, "message": problem.detail, "code": problem.code}
    return {"type": "error", "error": error, "request_id": problem.http_request_id}
