"""Whether the gateway runs, whether it can serve, and what it counts. These paths need no key and name no workspace."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from gateway.errors import RequestError
from gateway.state import Gateway
from parley.domain.errors import ErrorKind
from parley.domain.model import Model

router = APIRouter(tags=["operation"])
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Draining(RequestError):
    """The process ends: another one serves new requests."""

    kind = ErrorKind.UNAVAILABLE
    status = 503


class Alive(Model):
    """The gateway answers."""

    status: str


@router.get("/healthz")
async def healthz() -> Alive:
    """Whether the process answers. It checks no server: a restart of this process would not cure them."""
    return Alive(status="ok")


@router.get("/readyz")
async def readyz(request: Request) -> Alive:
    """Whether new requests should come here: PostgreSQL and Temporal answer, and the process does not end."""
    gateway: Gateway = request.app.state.gateway
    if gateway.draining.is_set():
        raise Draining("this gateway finishes its streams and ends", retry_after=1)
    await gateway.check_servers()
    return Alive(status="ready")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """The counters of this process, of its paid calls and of Temporal's SDK, for Prometheus."""
    gateway: Gateway = request.app.state.gateway
    return PlainTextResponse(await gateway.metrics.text(), media_type=PROMETHEUS)
