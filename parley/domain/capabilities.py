"""What each vendor's models accept: window sizes, parameters, tools, images. One table, by model name prefix.

It is in the domain because pure rules need it (routing reports dropped parameters, condensing and batching size
requests) and the domain imports no provider adapters. Adapters read it too.
"""

import json
from typing import Any

from parley.domain.json_schema import strict_form, strict_object
from parley.domain.model import Model
from parley.domain.requests import ChatRequest, Message, Provider, Request, Tool


class Capabilities(Model):
    """What a model accepts.

    context, reply: the context window and the longest reply, in tokens.
    cap: the most chat sessions in one labelling request; beyond it, models drop or mix up sessions.
    temperature: whether the vendor accepts `temperature` and `top_p`.
    response_schema: whether it enforces JSON schemas, of replies and of tools. json_object: whether any JSON object.
    stop, seed, parallel_tool_calls: whether it accepts these parameters. blank_stop: whether a stop text may be blank.
    tools, images: whether the model can call tools and see images.

    The defaults suit a model that is not in the table: requests sized for it fit nearly every other model.
    """

    context: int = 8_000
    reply: int = 4_000
    cap: int = 4
    temperature: bool = True
    response_schema: bool = True
    json_object: bool = True
    stop: bool = True
    blank_stop: bool = True
    seed: bool = True
    parallel_tool_calls: bool = True
    tools: bool = True
    images: bool = True


def _known(
    context: int,
    reply: int,
    cap: int = 20,
    *,
    schema: bool = True,
    like: Capabilities | None = None,
    images: bool = True,
) -> Capabilities:
    sizes = {"context": context, "reply": reply, "cap": cap}
    return (like or Capabilities()).model_copy(update={**sizes, "response_schema": schema, "images": images})


# An old model whose window is not listed.
_OLD = Capabilities(response_schema=False, json_object=False, images=False)
# OpenAI's reasoning models refuse the parameters of sampling.
_REASONING = Capabilities(temperature=False, stop=False, parallel_tool_calls=False)
_BLIND_REASONING = _REASONING.model_copy(update={"images": False})
_OLD_REASONING = _BLIND_REASONING.model_copy(update={"response_schema": False, "json_object": False, "tools": False})
# Anthropic's SDK has dropped the temperature for every model.
_OF_ANTHROPIC = Capabilities(temperature=False, json_object=False, seed=False, blank_stop=False)
_CLAUDE = _known(200_000, 32_000, like=_OF_ANTHROPIC)
_OLD_CLAUDE = _known(200_000, 32_000, like=_OF_ANTHROPIC, schema=False)
_OLDEST_CLAUDE = _OLD_CLAUDE.model_copy(update={"tools": False, "images": False})

# The longest prefix of the model name followed by "-" applies. Models from before their vendor's structured outputs
# refuse a schema. Source: the vendors' model pages.
MODELS: dict[Provider, dict[str, Capabilities]] = {
    Provider.OPENAI: {
        "": Capabilities(),
        "gpt-3.5": _known(16_000, 4_000, schema=False, images=False),
        "gpt-4-": _OLD,
        "gpt-4-turbo": Capabilities(response_schema=False),
        "gpt-4o": _known(128_000, 16_000),
        "gpt-4o-2024-05-13": _known(128_000, 16_000, schema=False),
        "gpt-4.1": _known(1_000_000, 32_000, cap=50),
        "gpt-5": _known(400_000, 128_000, cap=50, like=Capabilities(temperature=False, stop=False)),
        "o1": _REASONING,
        "o1-mini": _OLD_REASONING,
        "o1-preview": _OLD_REASONING,
        "o3": _REASONING,
        "o3-mini": _BLIND_REASONING,
        "o4": _REASONING,
    },
    Provider.ANTHROPIC: {
        "": _OF_ANTHROPIC,
        "claude": _CLAUDE,
        "claude-2": _OLDEST_CLAUDE,
        "claude-instant": _OLDEST_CLAUDE,
        "claude-3": _OLD_CLAUDE,
        "claude-3-5": _known(200_000, 8_000, like=_OF_ANTHROPIC, schema=False),
        "claude-sonnet-4-0": _OLD_CLAUDE,
        "claude-sonnet-4-2025": _OLD_CLAUDE,
        "claude-opus-4-0": _OLD_CLAUDE,
        "claude-opus-4-2025": _OLD_CLAUDE,
    },
    # A local server accepts what its model accepts, which no table can list.
    Provider.LOCAL: {"": Capabilities()},
}
SIZES = {prefix: known for rows in MODELS.values() for prefix, known in rows.items() if prefix} | {"": Capabilities()}
# The longest name of a tool, in characters. Source: the vendors' API references.
LONGEST_TOOL_NAME = {Provider.OPENAI: 64, Provider.ANTHROPIC: 128, Provider.LOCAL: 128}
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


def is_embedding_model(provider: Provider, model: str) -> bool:
    """Whether a model makes vectors, and answers no chats. Of a local server's models no table can say it."""
    return provider is Provider.OPENAI and model.startswith("text-embedding-")


def unserved(provider: Provider, model: str, request: ChatRequest) -> str:
    """What of a request the model cannot do, so that another one must; empty where there is nothing.

    What a model merely ignores is dropped instead: see `dropped_parameters`.
    """
    if is_embedding_model(provider, model):
        return "accepts no chats"
    accepted = capabilities(provider, model)
    if not accepted.images and any(message.images for message in request.messages):
        return "accepts no images"
    calls = any(message.tool_calls for message in request.messages)
    if not accepted.tools and (request.tools or calls):
        return "accepts no tools"
    longest = LONGEST_TOOL_NAME[provider]
    is_long = any(len(tool.name) > longest for tool in request.tools)
    return f"accepts no names of tools above {longest} characters" if is_long else ""


def dropped_parameters(provider: Provider, model: str, request: Request) -> tuple[str, ...]:
    """The parameters of a request that the vendor does not accept for this model: adapters leave them out."""
    if not isinstance(request, ChatRequest):
        return ()
    accepted = capabilities(provider, model)
    parameters = {
        "temperature": (request.temperature is not None, accepted.temperature),
        "top_p": (request.top_p is not None, accepted.temperature),
        "stop": (bool(request.stop), _accepted_stop(accepted, request) == request.stop),
        "seed": (request.seed is not None, accepted.seed),
        "response_schema": (request.response_schema is not None, accepted.response_schema),
        "json_object": (request.json_object, accepted.json_object),
        "strict": (any(tool.strict for tool in request.tools), accepted.response_schema),
        "parallel_tool_calls": (request.parallel_tool_calls is not None, accepted.parallel_tool_calls),
    }
    return tuple(name for name, (is_given, accepts) in parameters.items() if is_given and not accepts)


def _accepted_stop(accepted: Capabilities, request: ChatRequest) -> tuple[str, ...]:
    """The stop texts that a model accepts."""
    return tuple(text for text in request.stop if accepted.stop and (accepted.blank_stop or text.strip()))


SCHEMA_INSTRUCTION = "Answer with JSON alone, by this schema:"
JSON_INSTRUCTION = "Answer with one JSON object alone."


def without_dropped(provider: Provider, model: str, request: ChatRequest) -> ChatRequest:
    """The request as the vendor accepts it: its schemas are strict, or a system message where no schema is accepted."""
    dropped = dropped_parameters(provider, model, request)
    schema = strict_form(request.response_schema) if request.response_schema is not None else None
    instruction = _form_instruction(request, dropped, schema)
    changes: dict[str, Any] = {name: ChatRequest.model_fields[name].default for name in dropped if name != "strict"}
    changes["stop"] = _accepted_stop(capabilities(provider, model), request)
    if "response_schema" not in dropped:
        changes["response_schema"] = schema
    if instruction:
        changes["messages"] = _with_system(request.messages, instruction)
    changes["tools"] = tuple(_as_accepted(tool, "strict" in dropped) for tool in request.tools)
    if provider is Provider.ANTHROPIC and not request.tools:
        changes |= _tools_called(request.messages)
    return request.model_copy(update=changes)


def _form_instruction(request: ChatRequest, dropped: tuple[str, ...], schema: dict[str, Any] | None) -> str:
    """The answer's form in words, where the vendor takes no parameter for it, or also requires the word JSON."""
    if "response_schema" in dropped:
        return f"{SCHEMA_INSTRUCTION}\n{json.dumps(schema)}"
    if not request.json_object:
        return ""
    says_json = any("json" in message.text.lower() for message in request.messages)
    return "" if says_json and "json_object" not in dropped else JSON_INSTRUCTION


def _with_system(messages: tuple[Message, ...], instruction: str) -> tuple[Message, ...]:
    system = [message for message in messages if message.is_system]
    others = [message for message in messages if not message.is_system]
    return (*system, Message(role="system", content=instruction), *others)


def _as_accepted(tool: Tool, drop_strict: bool) -> Tool:
    """The tool with a strict schema, if it is strict."""
    if not tool.strict or drop_strict:
        return tool.model_copy(update={"strict": False})
    closed = strict_form(tool.parameters) if tool.parameters.get("properties") else strict_object({})
    return tool.model_copy(update={"parameters": closed})


def _tools_called(messages: tuple[Message, ...]) -> dict[str, Any]:
    """The tools that a chat has called: Anthropic requires them with their calls, also where none may be called now."""
    names = dict.fromkeys(call.name for message in messages for call in message.tool_calls)
    tools = tuple(Tool.model_construct(name=name) for name in names)
    return {"tools": tools, "tool_choice": "none"} if tools else {}


def _longest(rows: dict[str, Capabilities], model: str) -> Capabilities:
    name = f"{model.removeprefix('ft:')}-"
    return rows[max((prefix for prefix in rows if name.startswith(prefix)), key=len)]
