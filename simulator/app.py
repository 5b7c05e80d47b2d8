"""Assembles the endpoints into one ASGI application."""

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
from simulator.anthropic_batches import AnthropicBatches
from simulator.config import Config
from simulator.elevenlabs import SpeechToText
from simulator.embeddings import Embeddings
from simulator.endpoints import (
    UNLOGGED_REQUEST_ID,
    BatchAnswer,
    BatchEndpoint,
    BilledEndpoint,
    UnbilledEndpoint,
    error_response,
)
from simulator.faults import DELIVERIES, OUTAGES
from simulator.openai import ChatCompletions
from simulator.openai_batches import OpenAIBatches
from simulator.speech import TextToSpeech
from simulator.state import State
from simulator.twilio.rest import OutboundCalls
from simulator.wire import PROVIDERS, Refusal, Vendor

ABOUT = {
    "simulator": True,
    "about": "A test instrument: it speaks the providers' wire formats and computes its answers by rules.",
    "providers": list(PROVIDERS),
}


def create_app(config: Config) -> Starlette:
    """Return the application of one simulator. Its State is `app.state.simulator`, its phone `app.state.phone`."""
    state = State(config)
    phone = OutboundCalls(seed=config.seed)
    openai = ChatCompletions(state.answers, state.stored, state.prefixes)
    local = ChatCompletions(state.answers, state.stored, state.prefixes, name="local")
    messages = Messages(state.answers, state.prefixes)
    speech_to_text = SpeechToText(state.recordings)
    others: Mapping[str, Vendor] = {
        "/local/v1/chat/completions": local,
        "/anthropic/v1/messages": messages,
        "/elevenlabs/v1/speech-to-text": speech_to_text,
    }
    vendors = (openai, *others.values())
    voices: Mapping[str, Vendor] = {"/elevenlabs/v1/text-to-speech/{voice}/stream": TextToSpeech(speech_to_text)}
    embeddings = {f"/{chat.name}/v1/embeddings": Embeddings(chat) for chat in (openai, local)}

    @asynccontextmanager
    async def lifespan(_: Starlette):
        yield
        await phone.close()
        state.close()

    app = Starlette(
        routes=[
            Route("/", _about),
            *admin.routes(state),
            *phone.routes("/twilio"),
            *_completion_routes(openai, state),
            *_openai_batch_routes(openai, state),
            *_anthropic_batch_routes(messages, state),
            *(
                _route(path, vendor, POST=BilledEndpoint(vendor, state))
                for path, vendor in {**others, **embeddings, **voices}.items()
            ),
            *(_models_route(vendor, state) for vendor in vendors),
            *(Mount(f"/{vendor.name}", _not_found(vendor)) for vendor in vendors),
        ],
        middleware=[Middleware(SimulatorHeader)],
        lifespan=lifespan,
    )
    app.state.simulator = state
    app.state.phone = phone
    return app


async def _about(_: Request) -> Response:
    return JSONResponse(ABOUT)


def _completion_routes(openai: ChatCompletions, state: State) -> list[Route]:
    """Create and list completions. Delivery faults do not affect the lists: a client recovers lost replies there."""
    stored_list, stored_one = (
        UnbilledEndpoint(openai, state, answer, OUTAGES) for answer in (openai.list_stored, openai.get_stored)
    )
    return [
        _route("/openai/v1/chat/completions", openai, POST=BilledEndpoint(openai, state), GET=stored_list),
        _route("/openai/v1/chat/completions/{id}", openai, GET=stored_one),
    ]


def _openai_batch_routes(openai: ChatCompletions, state: State) -> list[Route]:
    batches = OpenAIBatches(openai, state)

    def endpoint(answer: BatchAnswer, *, creates: bool = False) -> BatchEndpoint:
        return BatchEndpoint(openai, state, answer, creates=creates)

    created = endpoint(batches.create, creates=True)
    return [
        _route("/openai/v1/files", openai, POST=endpoint(batches.upload)),
        _route("/openai/v1/files/{id}/content", openai, GET=endpoint(batches.content)),
        _route("/openai/v1/batches", openai, POST=created, GET=endpoint(batches.list)),
        _route("/openai/v1/batches/{id}", openai, GET=endpoint(batches.retrieve)),
        _route("/openai/v1/batches/{id}/cancel", openai, POST=endpoint(batches.cancel)),
    ]


def _anthropic_batch_routes(messages: Messages, state: State) -> list[Route]:
    batches, path = AnthropicBatches(messages, state), "/anthropic/v1/messages/batches"

    def endpoint(answer: BatchAnswer, *, creates: bool = False) -> BatchEndpoint:
        return BatchEndpoint(messages, state, answer, creates=creates)

    created = endpoint(batches.create, creates=True)
    return [
        _route(path, messages, POST=created, GET=endpoint(batches.list)),
        _route(path + "/{id}", messages, GET=endpoint(batches.retrieve)),
        _route(path + "/{id}/cancel", messages, POST=endpoint(batches.cancel)),
        _route(path + "/{id}/results", messages, GET=endpoint(batches.results)),
    ]


def _models_route(vendor: Vendor, state: State) -> Route:
    """List the models. Clients use it as a health check, so outages and delivery faults affect it."""
    models = UnbilledEndpoint(vendor, state, lambda _: vendor.models(), OUTAGES | {*DELIVERIES})
    return _route(f"/{vendor.name}/v1/models", vendor, GET=models)


def _route(path: str, vendor: Vendor, **methods: ASGIApp) -> Route:
    """Route a path by HTTP method. Any other method gets the vendor's 404, not Starlette's 405."""
    not_found = _not_found(vendor)

    class ByMethod:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await methods.get(scope["method"], not_found)(scope, receive, send)

    return Route(path, ByMethod())


def _not_found(vendor: Vendor) -> ASGIApp:
    async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(f"/{vendor.name}")
        refusal = Refusal("not_found", method=scope["method"], path=path)
        await error_response(vendor, refusal, UNLOGGED_REQUEST_ID)(scope, receive, send)

    return not_found


class SimulatorHeader:
    """Adds `x-simulator` to every response, so that a client can tell it from a provider's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-simulator"] = "1"
            await send(message)

        await self._app(scope, receive, send_with_header)
