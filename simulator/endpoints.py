"""The ASGI application of one endpoint: refuse the request, or compute, bill and deliver the reply."""

from collections.abc import Awaitable, Callable, Collection
from math import ceil

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from simulator.delivery import Connection, Headers, close_early, send_all_but_last, send_part
from simulator.faults import BATCH, BATCHES, BREAKS, FAULT_HEADER, OUTAGES, Fault
from simulator.records import ReceivedRequest
from simulator.state import State
from simulator.wire import ATTEMPT_HEADER, Body, Refusal, Reply, Vendor

GATEWAYS = {"html": (502, "Bad Gateway"), "gateway_timeout": (524, "A timeout occurred")}
NOT_JSON = b"upstream said: OK (this is not JSON"
UNLOGGED_REQUEST_ID = "req_sim00000000"


class BilledEndpoint:
    """An endpoint whose replies are billed. Every request is in the log."""

    def __init__(self, vendor: Vendor, state: State) -> None:
        self._vendor, self._state = vendor, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        received = self._state.requests.receive(self._vendor.name, request.headers.get(ATTEMPT_HEADER))
        try:
            fault, reply = await self._compute(request, received)
        except Refusal as refusal:
            response = error_response(self._vendor, refusal, received.request_id)
            self._state.requests.end(received, "refused", response.status_code)
            await response(scope, receive, send)
        except ClientDisconnect:
            self._state.requests.end(received, "gone", None)
        except Exception:
            self._state.requests.end(received, "refused", 500)
            raise  # a bug of the simulator, which the server reports
        else:
            async with Connection(receive, send, self._state.closing) as connection:
                await self._deliver(connection, received, fault, reply)

    async def _compute(self, request: Request, received: ReceivedRequest) -> tuple[Fault, Reply]:
        check_api_key(self._vendor, request)
        parsed = await self._vendor.read(request)
        received.model, traits = parsed.model, self._vendor.traits(parsed)
        received.stream = "stream" in traits
        fault = self._state.faults.take(self._vendor.name, traits, request.headers.get(FAULT_HEADER))
        received.fault = fault.name or None
        fault.raise_refusal()
        self._state.limits.admit(self._vendor.name)
        reply = await self._vendor.answer(parsed, received.number, fault.damage)
        if reply.stored:
            self._state.stored.add(reply.stored)
        self._state.requests.bill(received, reply)
        return fault, reply

    async def _deliver(self, connection: Connection, received: ReceivedRequest, fault: Fault, reply: Reply) -> None:
        latency, log = self._state.latency, self._state.requests
        headers = [(self._vendor.request_id_header, received.request_id)]
        wait = latency.before_first_byte(self._state.config.seed, received.number) + fault.wait
        if fault.name == "hang":
            await connection.stay_silent(fault.hold)
            log.end(received, "gone", None)
            await close_early(connection, headers)
            return
        gate = self._state.gate.wait_until_open(received.provider)
        if not (await connection.wait(gate) and await connection.pause(wait)):
            self._client_left(connection, received, reply.body, None)
            await close_early(connection, headers)
            return
        if fault.name in BREAKS:
            log.end(received, "cut", 200)
            await send_part(connection, reply.body, headers, BREAKS[fault.name])
            if fault.name == "stall":
                await connection.stay_silent(fault.hold)
            if connection.ended:
                self._client_left(connection, received, reply.body, 200)
            return
        body, seconds = changed(reply.body, fault), latency.generation(reply.output_tokens)
        if fault.name == "slow_tokens":
            seconds = fault.hold or seconds
        if not await send_all_but_last(connection, body, headers, seconds):
            self._client_left(connection, received, body, 200)
            return
        received.first_token_at = connection.first_token_at(body)
        # The log is complete before the last part is sent, so a client that has the whole reply finds it there.
        log.end(received, "answered", 200)
        await connection.finish(body.parts[-1])

    def _client_left(self, connection: Connection, received: ReceivedRequest, body: Body, status: int | None) -> None:
        if body.stream:
            self._state.requests.bill_part(received, body.share(len(connection.sent_at)))
        self._state.requests.end(received, "gone", status)


class UnbilledEndpoint:
    """An endpoint that costs nothing, such as a list of models. Its requests are not in the log.

    `faults`: the names of the faults that affect it while they are planned until reset.
    """

    def __init__(
        self, vendor: Vendor, state: State, answer: Callable[[Request], object], faults: Collection[str]
    ) -> None:
        self._vendor, self._state, self._answer, self._faults = vendor, state, answer, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            check_api_key(self._vendor, request)
            fault = self._state.faults.until_reset(self._vendor.name, self._faults)
            fault.raise_refusal()
            body = Body.json(self._answer(request))
        except Refusal as refusal:
            await error_response(self._vendor, refusal, UNLOGGED_REQUEST_ID)(scope, receive, send)
            return
        async with Connection(receive, send, self._state.closing) as connection:
            await _deliver_unbilled(connection, fault, body, [(self._vendor.request_id_header, UNLOGGED_REQUEST_ID)])


# Answers a request to a batch API, with the fault of a batch that it creates: JSON, or the bytes of a file.
BatchAnswer = Callable[[Request, str], Awaitable[object]]


class BatchEndpoint:
    """An endpoint of a batch API. Its requests are not in the log: the lines of a batch are.

    `creates`: it creates batches, and takes the planned faults for them. Outages affect all of them.
    """

    def __init__(self, vendor: Vendor, state: State, answer: BatchAnswer, *, creates: bool) -> None:
        self._vendor, self._state, self._answer, self._creates = vendor, state, answer, creates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            check_api_key(self._vendor, request)
            fault = self._fault(request)
            fault.raise_refusal()
            found = await self._answer(request, fault.name if fault.name in BATCHES else "")
            body = Body((found,), "application/jsonl") if isinstance(found, bytes) else Body.json(found)
        except Refusal as refusal:
            await error_response(self._vendor, refusal, UNLOGGED_REQUEST_ID)(scope, receive, send)
            return
        async with Connection(receive, send, self._state.closing) as connection:
            await _deliver_unbilled(connection, fault, body, [(self._vendor.request_id_header, UNLOGGED_REQUEST_ID)])

    def _fault(self, request: Request) -> Fault:
        if self._creates:
            return self._state.faults.take(self._vendor.name, BATCH, request.headers.get(FAULT_HEADER))
        return self._state.faults.until_reset(self._vendor.name, OUTAGES)


async def _deliver_unbilled(connection: Connection, fault: Fault, body: Body, headers: Headers) -> None:
    if fault.name == "hang":
        await connection.stay_silent(fault.hold)
        await close_early(connection, headers)
    elif fault.name == "cut":
        await send_part(connection, body, headers)
    else:
        body = changed(body, fault)
        if await send_all_but_last(connection, body, headers, fault.hold or 0):
            await connection.finish(body.parts[-1])


def check_api_key(vendor: Vendor, request: Request) -> None:
    """Raise Refusal for a missing key and for the key `invalid`. Any other key is accepted."""
    key = vendor.api_key(request.headers)
    if key is None or key == "invalid":
        raise Refusal("auth", missing=key is None)


def error_response(vendor: Vendor, refusal: Refusal, request_id: str) -> Response:
    headers = {vendor.request_id_header: request_id}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(ceil(refusal.retry_after))
    if refusal.kind in GATEWAYS:
        status, words = GATEWAYS[refusal.kind]
        page = f"<html><head><title>{status} {words}</title></head><body><h1>{status} {words}</h1></body></html>"
        return HTMLResponse(page, status, headers)
    status, body = vendor.error(refusal, request_id)
    return JSONResponse(body, status, headers)


def changed(body: Body, fault: Fault) -> Body:
    """Return the body as a fault delivers it."""
    if fault.name == "split_bytes":
        return body.in_bytes()
    return not_json(body) if fault.name == "not_json" else body


def not_json(body: Body) -> Body:
    """Return a body that is not JSON, or whose first event is not."""
    if not body.stream:
        return Body((NOT_JSON,))
    return Body((b"event: message_start\ndata: " + NOT_JSON + b"\n\n",), body.content_type, stream=True)
