"""The test's side of the simulator: what was billed, what shall go wrong, what waits."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.billing import as_json
from simulator.faults import rule_from_json
from simulator.latency import Latency
from simulator.reading import json_object
from simulator.state import State
from simulator.wire import PROVIDERS, Refusal

Handler = Callable[[Request], Awaitable[Response]]
FILTERS = ("attempt_id", "provider", "state")
MAX_WAIT = 30.0


def routes(state: State) -> list[Route]:
    admin = Admin(state)
    paths: list[tuple[str, str, Handler]] = [
        ("GET", "calls", admin.calls),
        ("POST", "reset", admin.reset),
        ("GET", "faults", admin.faults),
        ("POST", "faults", admin.add_fault),
        ("GET", "gate", admin.gate),
        ("POST", "gate", admin.set_gate),
        ("GET", "latency", admin.latency),
        ("POST", "latency", admin.set_latency),
        ("GET", "limits", admin.limits),
        ("POST", "limits", admin.set_limits),
    ]
    return [Route(f"/admin/{path}", _guarded(handler), methods=[method]) for method, path, handler in paths]


class Admin:
    def __init__(self, state: State) -> None:
        self._state = state

    async def calls(self, request: Request) -> Response:
        """The log; with `at_least=N`, as soon as N calls match (408 after `timeout` seconds)."""
        asked = request.query_params
        wanted: dict[str, Any] = {field: asked[field] for field in FILTERS if field in asked}
        if "billed" in asked:
            wanted["billed"] = asked["billed"] == "true"
        log, enough = self._state.calls, int(asked.get("at_least", 0))
        timeout = min(float(asked.get("timeout", 10)), MAX_WAIT)
        reached = await log.wait_for(lambda: len(log.select(**wanted)) >= enough, timeout)
        return JSONResponse([as_json(call) for call in log.select(**wanted)], 200 if reached else 408)

    async def reset(self, _: Request) -> Response:
        self._state.reset()
        return JSONResponse({"reset": True})

    async def faults(self, _: Request) -> Response:
        return JSONResponse([rule.as_json() for rule in self._state.faults.rules])

    async def add_fault(self, request: Request) -> Response:
        self._state.faults.rules.append(rule_from_json(await json_object(request)))
        return await self.faults(request)

    async def gate(self, _: Request) -> Response:
        return JSONResponse({"closed": self._state.gate.as_json()})

    async def set_gate(self, request: Request) -> Response:
        body = await json_object(request)
        if not isinstance(body.get("closed"), bool):
            raise ValueError("closed: true or false")
        self._state.gate.set(_provider(body), closed=body["closed"])
        return await self.gate(request)

    async def latency(self, _: Request) -> Response:
        return JSONResponse(self._state.latency.as_json())

    async def set_latency(self, request: Request) -> Response:
        self._state.latency = Latency(**await json_object(request))
        return await self.latency(request)

    async def limits(self, _: Request) -> Response:
        return JSONResponse(self._state.limits.as_json())

    async def set_limits(self, request: Request) -> Response:
        body = await json_object(request)
        requests, window = body.get("requests"), float(body.get("window_seconds") or 60)
        if not (requests is None or (isinstance(requests, int) and requests > 0)) or window <= 0:
            raise ValueError("requests: a positive number, or null for no limit; window_seconds: positive")
        provider = _provider(body)
        for name in PROVIDERS if provider is None else (provider,):
            self._state.limits.set(name, requests, window)
        return await self.limits(request)


def _provider(body: dict[str, Any]) -> str | None:
    provider = body.get("provider")
    if provider not in (None, *PROVIDERS):
        raise ValueError(f"provider: one of {', '.join(PROVIDERS)}, or null for all")
    return provider


def _guarded(handler: Handler) -> Handler:
    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except (Refusal, ValueError, TypeError) as problem:
            return JSONResponse({"error": str(problem)}, 400)

    return guarded
