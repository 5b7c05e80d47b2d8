"""What the OpenAPI document says is what the gateway does, for requests that fit the document and for others."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as limits
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.gateway.parts import Running
from tests.parts import TEST_TIMEOUT_SECONDS

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 5
QUIET = limits(
    max_examples=EXAMPLES,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("mode", GenerationMode)
async def test_no_operation_answers_what_is_not_documented(
    mode: GenerationMode, worker: None, gateway: Running, http: httpx.AsyncClient
):
    schema = schemathesis.openapi.from_dict((await http.get("/openapi.json")).json())
    headers = {"authorization": http.headers["authorization"]}
    problems: list[str] = []
    for operation in operations(schema):
        problems += await asyncio.to_thread(problems_of, operation, mode, gateway.url, headers)
    assert not problems, "\n\n".join(problems)


def operations(schema: schemathesis.BaseSchema) -> Iterator[APIOperation]:
    """The operations, without streams: they answer until the client leaves."""
    for found in schema.get_all_operations():
        operation = found.ok()
        if not operation.path.endswith("/events"):
            yield operation


def problems_of(operation: APIOperation, mode: GenerationMode, url: str, headers: dict[str, Any]) -> list[str]:
    """What is wrong with the responses to generated requests: at most one problem of an operation."""

    @QUIET
    @seed(11)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        case.headers.pop("X-Api-Key", None)  # the generated key is not one: `headers` has the test's
        response = case.call(base_url=url, headers=headers, timeout=TEST_TIMEOUT_SECONDS)
        case.validate_response(response, checks=CHECKS)

    try:
        check()
    except Exception as problem:  # noqa: BLE001 - all operations are checked, then all problems are shown
        if type(problem).__name__ == "Unsatisfiable":  # no request of this mode is possible
            return []
        return [f"{operation.method.upper()} {operation.path}: {type(problem).__name__}: {problem}"]
    return []
