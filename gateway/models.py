"""The models that a request may name, in a shape that the SDKs of both vendors read."""

from typing import Any

from fastapi import APIRouter, Request

from gateway.auth import KeyedRoute, requires
from gateway.dropin import AUTO
from gateway.errors import VENDOR_ERRORS, UnknownModel
from gateway.state import Gateway
from parley.domain.gateway_keys import Scope
from parley.domain.requests import CHAT_PROVIDERS, Provider

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=KeyedRoute, responses=VENDOR_ERRORS)

# The vendors say when a model was made. No table here knows it.
UNKNOWN_TIME = "1970-01-01T00:00:00Z"


@router.get("", openapi_extra=requires(Scope.GENERATE))
async def list_models(request: Request) -> dict[str, Any]:
    """The models of the policy's routes, and `parley/auto`, which lets the policy choose."""
    models = [_model(*one) for one in _known(request)]
    return {
        "object": "list",
        "data": models,
        "has_more": False,
        "first_id": models[0]["id"],
        "last_id": models[-1]["id"],
    }


@router.get("/{model_id:path}", openapi_extra=requires(Scope.GENERATE))
async def find_model(request: Request, model_id: str) -> dict[str, Any]:
    """One of the models."""
    for known, owner in _known(request):
        if known == model_id:
            return _model(known, owner)
    raise UnknownModel("there is no such model in the policy: GET /v1/models lists those that there are")


def _known(request: Request) -> list[tuple[str, str]]:
    gateway: Gateway = request.app.state.gateway
    defaults = {provider: getattr(gateway.backend.settings, f"{provider.value}_model") for provider in CHAT_PROVIDERS}
    routes = gateway.policy.routes(defaults)
    named = {_name(route.provider, route.model): route.provider.value for route in routes}
    return [(AUTO, "parley"), *named.items()]


def _name(provider: Provider, model: str) -> str:
    return f"{provider.value}/{model}" if provider is Provider.LOCAL else model


def _model(name: str, owner: str) -> dict[str, Any]:
    of_openai = {"object": "model", "created": 0, "owned_by": owner}
    of_anthropic = {"type": "model", "display_name": name, "created_at": UNKNOWN_TIME, "lifecycle": "active"}
    return {"id": name, **of_openai, **of_anthropic}
