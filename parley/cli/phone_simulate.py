"""`parley phone simulate`: phone calls that a simulator makes."""

from typing import Annotated
from urllib.parse import urlsplit

import typer

from parley import InvalidInput, Settings
from parley.cli.console import Json
from parley.cli.run import run_application, set_if_empty
from parley.connection import running_stack

MOST_PHONE_CALLS = 500


def simulate(
    script: Annotated[
        str, typer.Argument(help="What the caller does: a ready script or a file; --scripts lists both.")
    ] = "barge-in",
    calls: Annotated[int, typer.Option("--calls", "-n", min=1, max=MOST_PHONE_CALLS, help="Phone calls at once.")] = 1,
    url: Annotated[
        str | None,
        typer.Option(help="The gateway, or any voice webhook by its whole address; default: that of `parley up`."),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(help="The gateway's public address, if it has one: the simulator plays the tunnel to it."),
    ] = None,
    number: Annotated[str | None, typer.Option(help="The number that is called; default: +15550100002.")] = None,
    caller: Annotated[str | None, typer.Option(help="The number that calls; default: +15550100001.")] = None,
    seed: Annotated[int, typer.Option(help="Repeats the same delays, forms and orders.")] = 7,
    speed: Annotated[float, typer.Option(min=0.1, max=1000, help="Speech and waiting so many times as fast.")] = 1.0,
    scripts: Annotated[bool, typer.Option("--scripts", help="List the ready scripts and the steps.")] = False,
    as_json: Json = False,
) -> None:
    """Make simulated phone calls and show the talk: a simulator plays Twilio and the caller, without any audio.

    The requests are signed with TWILIO_AUTH_TOKEN, or with the token of the stack that `parley up` runs.
    """
    if scripts:
        run_application("simulator.twilio", ["--scripts"])
    given = {
        "--public-url": public_url,
        "--number": number,
        "--caller": caller,
        "--calls": str(calls),
        "--seed": str(seed),
        "--speed": str(speed),
        **_addresses(url),
    }
    options = [f"{name}={value}" for name, value in given.items() if value is not None]
    run_application("simulator.twilio", [*options, *(["--json"] if as_json else []), "--", script])


def _addresses(url: str | None) -> dict[str, str]:
    """The webhook and the status callback of the gateway; an address with a path is a webhook without a callback.

    Raises:
        InvalidInput: no gateway runs on this machine, and none is named; or the address is not one.
    """
    stack = running_stack(Settings().state_dir)
    if url is None:
        url = stack.gateway_url if stack else None
        if stack and stack.twilio_auth_token:
            set_if_empty("TWILIO_AUTH_TOKEN", stack.twilio_auth_token)
    if url is None:
        raise InvalidInput("is not set: start `parley up`, or name the gateway's address", where="--url")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInput(f"must be an address such as http://127.0.0.1:8080; got {url!r}", where="--url")
    if parts.path.strip("/"):
        return {"--url": url}
    base = url.rstrip("/")
    return {"--url": f"{base}/phone/voice", "--status-url": f"{base}/phone/status"}
