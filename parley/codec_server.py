"""The codec server: Temporal's UI and command line have it decrypt the payloads that they show.

It speaks Temporal's protocol for remote codecs: POST /encode and POST /decode, with payloads as Protobuf's JSON.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence

import uvicorn
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import Payload, Payloads

from parley.codec import EncryptionCodec
from parley.domain.errors import InvalidInput

Transform = Callable[[Sequence[Payload]], Awaitable[list[Payload]]]


def codec_app(codec: EncryptionCodec, origins: Sequence[str]) -> Starlette:
    """The application of a codec server.

    Args:
        codec: has the keys.
        origins: the origins of the web pages that may use it, such as that of Temporal's UI. Any other page is refused;
            a request without an origin comes from a program.
    """

    def route(path: str, transform: Transform) -> Route:
        async def endpoint(request: Request) -> Response:
            origin = request.headers.get("origin")
            if origin is not None and origin not in origins:
                return PlainTextResponse(f"{origin} may not use this codec server (--origin)", status_code=403)
            allowed = _allowed(origin)
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=allowed)
            try:
                payloads = Parse(await request.body(), Payloads())
                answer = Payloads(payloads=await transform(payloads.payloads))
            except (ParseError, UnicodeDecodeError):
                return PlainTextResponse("the body must be payloads as JSON", status_code=400, headers=allowed)
            except InvalidInput as error:
                return PlainTextResponse(str(error), status_code=400, headers=allowed)
            return Response(MessageToJson(answer), media_type="application/json", headers=allowed)

        return Route(path, endpoint, methods=["POST", "OPTIONS"])

    return Starlette(routes=[route("/encode", codec.encode), route("/decode", codec.decode)])


def _allowed(origin: str | None) -> dict[str, str]:
    """What a browser must be sent before a page of that origin may read the answer."""
    if origin is None:
        return {}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": "POST",
        "Access-Control-Allow-Headers": "Content-Type, X-Namespace, Authorization",
        "Vary": "Origin",
    }


def serve(
    codec: EncryptionCodec, origins: Sequence[str], *, host: str, port: int, announce: Callable[[str], None]
) -> None:
    """Serve until a stop signal.

    Args:
        codec: has the keys.
        origins: of the web pages that may use it.
        host: address to listen on.
        port: 0 takes a free one.
        announce: called with the URL as soon as it listens.

    Raises:
        InvalidInput: it cannot listen there.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InvalidInput(f"cannot listen there: {error.strerror}", where=f"{host}:{port}") from None
    with listener:
        shown = f"[{host}]" if ":" in host else host
        announce(f"http://{shown}:{listener.getsockname()[1]}")
        config = uvicorn.Config(codec_app(codec, origins), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])
