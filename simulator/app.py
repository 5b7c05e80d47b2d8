"""Puts the endpoints together into one ASGI application."""

from collections.abc import Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simulator import admin
from simulator.anthropic import Messages
from simulator.config import Config
from simulator.elevenlabs import SpeechToText
from simulator.exchange import Exchange, refused
from simulator.faults import DELIVERIES, OUTAGES
from simulator.inquiry import REQUEST_ID, Inquiry
from simulator.openai import ChatCompletions
from simulator.state import State
from simulator.wire import PROVIDERS, Refusal, Vendor

ABOUT = {
    "simulator": True,
    "about": "A test instrument: it speaks the providers' wire formats and computes its answers by rules.",
    "providers": list(PROVIDERS),
}


def create_app(config: Config) -> Starlette:
    """One simulator. Its state is at `app.state.simulator`."""
    state = State(config)
    openai = ChatCompletions(state.answers, state.stored)
    others: Mapping[str, Vendor] = {
        "/local/v1/chat/completions": ChatCompletions(state.answers, state.stored, name="local"),
        "/anthropic/v1/messages": Messages(state.answers),
        "/elevenlabs/v1/speech-to-text": SpeechToText(state.recordings),
    }
    vendors = (openai, *others.values())

    @asynccontextmanager
    async def lifespan(_: Starlette):
        yield
        state.close()

    app = Starlette(
        routes=[
            Route("/", _about),
            *admin.routes(state),
            *_completions(openai, state),
            *(_endpoint(path, vendor, POST=Exchange(vendor, state)) for path, vendor in others.items()),
            *(_models(vendor, state) for vendor in vendors),
            *(Mount(f"/{vendor.name}", _unknown(vendor)) for vendor in vendors),
        ],
        middleware=[Middleware(Marked)],
        lifespan=lifespan,
    )
    app.state.simulator = state
    return app


async def _about(_: Request) -> Response:
    return JSONResponse(ABOUT)


def _completions(openai: ChatCompletions, state: State) -> list[Route]:
    """Also of a provider whose replies do not arrive it can be listed what is stored."""
    listing, one = (Inquiry(openai, state, answer, OUTAGES) for answer in (openai.listing, openai.one_stored))
    return [
        _endpoint("/openai/v1/chat/completions", openai, POST=Exchange(openai, state), GET=listing),
        _endpoint("/openai/v1/chat/completions/{id}", openai, GET=one),
    ]


def _models(vendor: Vendor, state: State) -> Route:
    """What a client asks for to see whether a provider is well."""
    models = Inquiry(vendor, state, lambda _: vendor.models(), OUTAGES | {*DELIVERIES})
    return _endpoint(f"/{vendor.name}/v1/models", vendor, GET=models)


def _endpoint(path: str, vendor: Vendor, **methods: ASGIApp) -> Route:
    """Another method on the same path gets the vendor's 404, not Starlette's own 405."""
    unknown = _unknown(vendor)

    class Endpoint:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await methods.get(scope["method"], unknown)(scope, receive, send)

    return Route(path, Endpoint())


def _unknown(vendor: Vendor) -> ASGIApp:
    async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(f"/{vendor.name}")
        refusal = Refusal("not_found", method=scope["method"], path=path)
        await refused(vendor, refusal, REQUEST_ID)(scope, receive, send)

    return unknown


class Marked:
    """Marks every response: nothing that comes from here may be taken for a provider's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-simulator"] = "1"
            await send(message)

        await self._app(scope, receive, marked)
