"""What each vendor's models accept: window sizes, temperature, response schemas. One table, by model name prefix.

It is in the domain because pure rules need it (routing reports dropped parameters, condensing and batching size
requests) and the domain imports no provider adapters. Adapters read it too.
"""

import json
from typing import Any

from parley.domain.json_schema import strict_form
from parley.domain.model import Model
from parley.domain.requests import ChatRequest, Message, Provider, Request


class Capabilities(Model):
    """What a model accepts.

    context, reply: the context window and the longest reply, in tokens.
    cap: the most chat sessions in one labelling request; beyond it, models drop or mix up sessions.
    temperature, response_schema: whether the vendor accepts `temperature` and a response schema.

    The defaults suit a model that is not in the table: requests sized for it fit nearly every other model.
    """

    context: int = 8_000
    reply: int = 4_000
    cap: int = 4
    temperature: bool = True
    response_schema: bool = True


def _known(context: int, reply: int, cap: int = 20, *, temperature: bool = True, schema: bool = True) -> Capabilities:
    return Capabilities(context=context, reply=reply, cap=cap, temperature=temperature, response_schema=schema)


# An old model whose window is not listed.
_OLD = Capabilities(response_schema=False)
# OpenAI's reasoning models refuse a temperature.
_REASONING = Capabilities(temperature=False)
_OLD_REASONING = Capabilities(temperature=False, response_schema=False)
# Anthropic's SDK has dropped the temperature for every model.
_CLAUDE = _known(200_000, 32_000, temperature=False)
_OLD_CLAUDE = _known(200_000, 32_000, temperature=False, schema=False)

# The longest prefix of the model name followed by "-" applies. Models from before their vendor's structured outputs
# refuse a schema. Source: the vendors' model pages.
MODELS: dict[Provider, dict[str, Capabilities]] = {
    Provider.OPENAI: {
        "": Capabilities(),
        "gpt-3.5": _known(16_000, 4_000, schema=False),
        "gpt-4-": _OLD,
        "gpt-4o": _known(128_000, 16_000),
        "gpt-4o-2024-05-13": _known(128_000, 16_000, schema=False),
        "gpt-4.1": _known(1_000_000, 32_000, cap=50),
        "gpt-5": _known(400_000, 128_000, cap=50, temperature=False),
        "o1": _REASONING,
        "o1-mini": _OLD_REASONING,
        "o1-preview": _OLD_REASONING,
        "o3": _REASONING,
        "o4": _REASONING,
    },
    Provider.ANTHROPIC: {
        "": Capabilities(temperature=False),
        "claude": _CLAUDE,
        "claude-2": _OLD_CLAUDE,
        "claude-instant": _OLD_CLAUDE,
        "claude-3": _OLD_CLAUDE,
        "claude-3-5": _known(200_000, 8_000, temperature=False, schema=False),
        "claude-sonnet-4-0": _OLD_CLAUDE,
        "claude-sonnet-4-2025": _OLD_CLAUDE,
        "claude-opus-4-0": _OLD_CLAUDE,
        "claude-opus-4-2025": _OLD_CLAUDE,
    },
    # A local server accepts what its model accepts, which no table can list.
    Provider.LOCAL: {"": Capabilities()},
}
SIZES = {prefix: known for rows in MODELS.values() for prefix, known in rows.items() if prefix} | {"": Capabilities()}
# The name of a model that is not in the table.
UNKNOWN_MODEL = ""


def capabilities(provider: Provider, model: str) -> Capabilities:
    """What a provider accepts for a model. A fine-tuned OpenAI model (`ft:…`) accepts what its base model accepts."""
    return _longest(MODELS[provider], model)


def window(model: str) -> Capabilities:
    """The sizes of a model by its name alone, whichever provider serves it."""
    return _longest(SIZES, model)


def narrower(model: str, other: str) -> bool:
    """Whether the context window of `model` is smaller than that of `other`."""
    return window(model).context < window(other).context


def dropped_parameters(provider: Provider, model: str, request: Request) -> tuple[str, ...]:
    """The parameters of a request that the vendor does not accept for this model: adapters leave them out."""
    if not isinstance(request, ChatRequest):
        return ()
    accepted = capabilities(provider, model)
    parameters: dict[str, tuple[Any, bool]] = {
        "temperature": (request.temperature, accepted.temperature),
        "response_schema": (request.response_schema, accepted.response_schema),
    }
    return tuple(name for name, (value, accepts) in parameters.items() if value is not None and not accepts)


# Short, so that the upper bound of the cost, which counts the schema and some tokens a message, covers it too.
SCHEMA_INSTRUCTION = "Answer with JSON alone, by this schema:"


def without_dropped(provider: Provider, model: str, request: ChatRequest) -> ChatRequest:
    """The request as the vendor accepts it: its schema is strict, or a system message where no schema is accepted."""
    dropped = dropped_parameters(provider, model, request)
    messages = request.messages
    schema = strict_form(request.response_schema) if request.response_schema is not None else None
    if "response_schema" in dropped:
        content = f"{SCHEMA_INSTRUCTION}\n{json.dumps(schema)}"
        system = [message for message in messages if message.role == "system"]
        others = [message for message in messages if message.role != "system"]
        messages = (*system, Message(role="system", content=content), *others)
    return request.model_copy(update={"response_schema": schema, **dict.fromkeys(dropped), "messages": messages})


def _longest(rows: dict[str, Capabilities], model: str) -> Capabilities:
    name = f"{model.removeprefix('ft:')}-"
    return rows[max((prefix for prefix in rows if name.startswith(prefix)), key=len)]
