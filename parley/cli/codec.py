"""`parley codec-server`: Temporal's UI and command line show decrypted payloads."""

from importlib.util import find_spec
from typing import Annotated
from urllib.parse import urlsplit

import typer

from parley.cli.console import err
from parley.connection import known_codec_keys, payload_codec, running_stack
from parley.domain.errors import InvalidInput
from parley.settings import Settings

NEEDED = ("starlette", "uvicorn")

app = typer.Typer()


@app.command("codec-server")
def codec_server(
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of Temporal's UI, for example http://localhost:8080; default: that of `parley up`."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; who reaches it can decrypt.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8081,
) -> None:
    """Decrypt payloads for Temporal's UI and command line, until Ctrl-C."""
    if not all(map(find_spec, NEEDED)):
        raise InvalidInput("is not installed: pip install 'parley[gateway]'", where="the codec server")
    from parley.codec_server import serve  # noqa: PLC0415

    settings = Settings()
    stack = running_stack(settings.state_dir) if settings.database_url is None else None
    codec = payload_codec(known_codec_keys(settings.codec_keys, stack))
    origins = [_checked(one) for one in origin or ([stack.ui_url] if stack else [])]

    def announce(url: str) -> None:
        err.say(f"codec server: {url}")
        err.say(f"web pages that may use it: {', '.join(origins) or 'none; name the UI with --origin'}")
        err.say(f"in Temporal's UI: Settings, Codec server, {url}; or: temporal workflow show --codec-endpoint {url} …")

    serve(codec, origins, host=host, port=port, announce=announce)


def _checked(origin: str) -> str:
    """An origin as browsers send it.

    Raises:
        InvalidInput: it has no scheme and host, or more than these and a port.
    """
    parts = urlsplit(origin.rstrip("/"))
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
        raise InvalidInput(f"must be an origin such as http://localhost:8080, not {origin!r}", where="--origin")
    return f"{parts.scheme}://{parts.netloc}"
