"""The application: its paths, and what surrounds them."""

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from gateway import (
    anthropic,
    chat,
    conversations,
    embeddings,
    health,
    jobs,
    knowledge,
    labels,
    models,
    openai,
    speech,
)
from gateway.boundary import Boundary
from gateway.console import budgets, forks, overview, pages, phone_talk, review, sign_in
from gateway.console import chat as chat_pages
from gateway.console import jobs as job_pages
from gateway.console import labels as label_pages
from gateway.console import phone as phone_pages
from gateway.errors import PROBLEMS, Problem, answer_error
from gateway.metrics import GatewayMetrics
from gateway.phone import routes as phone
from gateway.state import Gateway
from gateway.uploads import is_multipart
from parley.client.backend import Backend
from parley.domain.errors import ParleyError
from parley.settings import Settings

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def create_app(backend: Backend, settings: Settings, metrics: GatewayMetrics | None = None) -> FastAPI:
    """The gateway on these connections.

    Args:
        backend: stays open; its owner closes it.
        settings: `gateway_…` are the limits.
        metrics: default: nothing is counted.
    """
    metrics = metrics or GatewayMetrics()
    # Without the pages of FastAPI's documentation, which load scripts from another host.
    app = FastAPI(title="Parley", docs_url=None, redoc_url=None, responses=PROBLEMS, redirect_slashes=False)
    app.state.gateway = Gateway(backend, metrics)
    app.state.sign_in_tries = sign_in.SignInTries()
    # Before the paths of jobs, one of which takes any rest of a path as the id.
    app.include_router(labels.router)
    for module in (health, jobs, chat, conversations, knowledge, speech, openai, embeddings, anthropic, models, phone):
        app.include_router(module.router)
    console = (overview, job_pages, chat_pages, phone_pages, phone_talk, label_pages, review, forks, budgets)
    for router in (
        jobs.sockets,
        phone.sockets,
        phone_talk.sockets,
        sign_in.router,
        sign_in.signed_in,
        *(module.router for module in console),
    ):
        app.include_router(router)
    app.mount(pages.STATIC, pages.static_files())
    for error in (ParleyError, RequestValidationError, HTTPException):
        app.add_exception_handler(error, answer_error)
    uploads = {*jobs.UPLOADS, knowledge.UPLOAD}

    def body_limit(path: str, headers: Headers) -> int:
        # Files go to the disk. A body of any other type is read whole into memory, also where files are accepted.
        has_files = path in uploads and is_multipart(headers)
        return settings.gateway_upload_bytes if has_files else settings.gateway_body_bytes

    app.add_middleware(Boundary, settings=settings, metrics=metrics, body_limit=body_limit)
    app.openapi = lambda: _openapi(app)
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the one shape of errors that there is."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version="1", routes=app.routes)
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        for body in jobs.BODIES:  # those that are read by the path itself, because they may be multipart
            schemas[body.__name__] = body.model_json_schema(ref_template="#/components/schemas/{model}")
        for made_of in ("Problem", *(body.__name__ for body in jobs.BODIES)):
            schemas.update(schemas[made_of].pop("$defs", {}))
        made["components"]["securitySchemes"] = SECURITY
        for operation in (one for path in made["paths"].values() for one in path.values()):
            operation["responses"].pop("422", None)
        app.openapi_schema = made
    return app.openapi_schema
