"""One request that costs nothing: a list of models or of stored completions. The log of calls knows nothing of it."""

from collections.abc import Callable, Collection

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from simulator.delivery import Headers, Line, abort, send_cut, send_most
from simulator.exchange import authenticate, garbled, refused
from simulator.faults import Fault
from simulator.state import State
from simulator.wire import Body, Refusal, Vendor

REQUEST_ID = "req_sim00000000"


class Inquiry:
    """The ASGI application of one such endpoint. `suffers`: the standing faults of the provider that it shows."""

    def __init__(
        self, vendor: Vendor, state: State, answer: Callable[[Request], object], suffers: Collection[str]
    ) -> None:
        self._vendor, self._state, self._answer, self._suffers = vendor, state, answer, suffers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            authenticate(self._vendor, request)
            fault = self._state.faults.standing(self._vendor.name, self._suffers)
            fault.refuse()
            body = Body.json(self._answer(request))
        except Refusal as refusal:
            await refused(self._vendor, refusal, REQUEST_ID)(scope, receive, send)
            return
        async with Line(receive, send, self._state.closing) as line:
            await _deliver(line, fault, body, [(self._vendor.request_id_header, REQUEST_ID)])


async def _deliver(line: Line, fault: Fault, body: Body, headers: Headers) -> None:
    if fault.name == "hang":
        await line.silence(fault.hold)
        await abort(line, headers)
    elif fault.name == "cut":
        await send_cut(line, body, headers)
    else:
        body = garbled(body) if fault.name == "not_json" else body
        if await send_most(line, body, headers, fault.hold or 0):
            await line.finish(body.parts[-1])
