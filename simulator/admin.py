"""The endpoints under `/admin`: a test reads the received requests there, plans faults and holds replies back."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.config import Latency
from simulator.faults import rule_from_json
from simulator.state import WINDOW_SECONDS, State
from simulator.wire import PROVIDERS, Refusal, read_json_object

Handler = Callable[[Request], Awaitable[Response]]
FILTERS = ("attempt_id", "provider", "state")
MAX_WAIT = 30.0  # seconds


def routes(state: State) -> list[Route]:
    admin = Admin(state)
    paths: list[tuple[str, str, Handler]] = [
        ("GET", "requests", admin.requests),
        ("POST", "reset", admin.reset),
        ("GET", "faults", admin.faults),
        ("POST", "faults", admin.add_fault),
        ("GET", "gate", admin.gate),
        ("POST", "gate", admin.set_gate),
        ("GET", "latency", admin.latency),
        ("POST", "latency", admin.set_latency),
        ("POST", "batches", admin.set_batches),
        ("GET", "limits", admin.limits),
        ("POST", "limits", admin.set_limits),
    ]
    return [Route(f"/admin/{path}", _with_errors(handler), methods=[method]) for method, path, handler in paths]


class Admin:
    def __init__(self, state: State) -> None:
        self._state = state

    async def requests(self, request: Request) -> Response:
        """List the received requests, filtered by `attempt_id`, `provider`, `state` and `billed`.

        With `at_least=N`, answer as soon as N requests match, or with status 408 after `timeout` seconds (default 10).
        """
        query = request.query_params
        filters: dict[str, Any] = {field: query[field] for field in FILTERS if field in query}
        if "billed" in query:
            filters["billed"] = query["billed"] == "true"
        log, at_least = self._state.requests, int(query.get("at_least", 0))
        timeout = min(float(query.get("timeout", 10)), MAX_WAIT)
        reached = await log.wait_for(lambda: len(log.select(**filters)) >= at_least, timeout)
        return JSONResponse([received.as_json() for received in log.select(**filters)], 200 if reached else 408)

    async def reset(self, _: Request) -> Response:
        self._state.reset()
        return JSONResponse({"reset": True})

    async def faults(self, _: Request) -> Response:
        return JSONResponse([rule.as_json() for rule in self._state.faults.rules])

    async def add_fault(self, request: Request) -> Response:
        self._state.faults.rules.append(rule_from_json(await read_json_object(request)))
        return await self.faults(request)

    async def gate(self, _: Request) -> Response:
        return JSONResponse({"closed": self._state.gate.as_json()})

    async def set_gate(self, request: Request) -> Response:
        body = await read_json_object(request)
        if not isinstance(body.get("closed"), bool):
            raise ValueError("closed: must be true or false")
        self._state.gate.set(_provider(body), closed=body["closed"])
        return await self.gate(request)

    async def latency(self, _: Request) -> Response:
        return JSONResponse(self._state.latency.as_json())

    async def set_latency(self, request: Request) -> Response:
        self._state.latency = Latency(**await read_json_object(request))
        return await self.latency(request)

    async def set_batches(self, request: Request) -> Response:
        """Set after how many `seconds` a batch is answered, those that are open included."""
        self._state.batch_seconds = float((await read_json_object(request)).get("seconds", 0.0))
        return JSONResponse({"seconds": self._state.batch_seconds})

    async def limits(self, _: Request) -> Response:
        return JSONResponse(self._state.limits.as_json())

    async def set_limits(self, request: Request) -> Response:
        body = await read_json_object(request)
        requests, window = body.get("requests"), float(body.get("window_seconds") or WINDOW_SECONDS)
        if not (requests is None or (isinstance(requests, int) and requests > 0)) or window <= 0:
            raise ValueError("requests: must be a positive integer or null; window_seconds: must be positive")
        provider = _provider(body)
        for name in PROVIDERS if provider is None else (provider,):
            self._state.limits.set(name, requests, window)
        return await self.limits(request)


def _provider(body: dict[str, Any]) -> str | None:
    provider = body.get("provider")
    if provider not in (None, *PROVIDERS):
        raise ValueError(f"provider: must be one of {', '.join(PROVIDERS)}, or null for all")
    return provider


def _with_errors(handler: Handler) -> Handler:
    """Answer 400 with the message of an error in the request."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except (Refusal, ValueError, TypeError) as problem:
            return JSONResponse({"error": str(problem)}, 400)

    return handle
