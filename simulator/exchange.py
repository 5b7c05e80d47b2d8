"""One request from arrival to end: refuse it, or compute, bill and deliver the reply."""

from math import ceil

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from simulator.billing import Call
from simulator.delivery import Line, abort, send_cut, send_most
from simulator.faults import FAULT_HEADER, Fault
from simulator.state import State
from simulator.wire import ATTEMPT_HEADER, Body, Refusal, Reply, Vendor

GATEWAY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
NOT_JSON = b"upstream said: OK (this is not JSON"


class Exchange:
    """The ASGI application of one endpoint."""

    def __init__(self, vendor: Vendor, state: State) -> None:
        self._vendor, self._state = vendor, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        call = self._state.calls.receive(self._vendor.name, request.headers.get(ATTEMPT_HEADER))
        try:
            fault, reply = await self._compute(request, call)
        except Refusal as refusal:
            response = refused(self._vendor, refusal, call.request_id)
            self._state.calls.end(call, "refused", response.status_code)
            await response(scope, receive, send)
        except ClientDisconnect:
            self._state.calls.end(call, "gone", None)
        except Exception:
            self._state.calls.end(call, "refused", 500)
            raise  # a fault of the simulator's own, which the server reports
        else:
            async with Line(receive, send, self._state.closing) as line:
                await self._deliver(line, call, fault, reply)

    async def _compute(self, request: Request, call: Call) -> tuple[Fault, Reply]:
        authenticate(self._vendor, request)
        asked = await self._vendor.read(request)
        call.model, traits = asked.model, self._vendor.traits(asked)
        call.stream = "stream" in traits
        fault = self._state.faults.take(self._vendor.name, traits, request.headers.get(FAULT_HEADER))
        call.fault = fault.name or None
        fault.refuse()
        self._state.limits.admit(self._vendor.name)
        reply = await self._vendor.answer(asked, call.number, fault.damage)
        if reply.stored:
            self._state.stored.add(reply.stored)
        self._state.calls.bill(
            call,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            audio_seconds=reply.audio_seconds,
        )
        return fault, reply

    async def _deliver(self, line: Line, call: Call, fault: Fault, reply: Reply) -> None:
        latency, headers = self._state.latency, self._headers(call)
        before = latency.before_first_byte(self._state.config.seed, call.number) + (fault.hold or 0)
        if fault.name == "hang":
            await line.silence(fault.hold)
            await self._abandon(line, call)
            return
        if not (await line.wait(self._state.gate.passage(call.provider)) and await line.pause(before)):
            await self._abandon(line, call)
            return
        if fault.name == "cut":
            self._state.calls.end(call, "cut", 200)
            await send_cut(line, reply.body, headers)
            return
        body = garbled(reply.body) if fault.name == "not_json" else reply.body
        if not await send_most(line, body, headers, latency.generation(reply.output_tokens)):
            self._state.calls.end(call, "gone", 200)
            return
        # Ended before its last part is sent: whoever has the whole reply finds the log complete.
        self._state.calls.end(call, "answered", 200)
        await line.finish(body.parts[-1])

    async def _abandon(self, line: Line, call: Call) -> None:
        self._state.calls.end(call, "gone", None)
        await abort(line, self._headers(call))

    def _headers(self, call: Call) -> list[tuple[str, str]]:
        return [(self._vendor.request_id_header, call.request_id)]


def authenticate(vendor: Vendor, request: Request) -> None:
    """Any key passes but none and `invalid`."""
    key = vendor.key(request.headers)
    if key is None or key == "invalid":
        raise Refusal("auth", missing=key is None)


def refused(vendor: Vendor, refusal: Refusal, request_id: str) -> Response:
    headers = {vendor.request_id_header: request_id}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(ceil(refusal.retry_after))
    if refusal.kind == "html":
        return HTMLResponse(GATEWAY_PAGE, 502, headers)
    status, body = vendor.refuse(refusal, request_id)
    return JSONResponse(body, status, headers)


def garbled(body: Body) -> Body:
    """A 200 whose body is not JSON, or whose first event is not."""
    if not body.stream:
        return Body((NOT_JSON,))
    return Body((b"event: message_start\ndata: " + NOT_JSON + b"\n\n",), body.content_type, stream=True)
