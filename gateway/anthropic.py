"""Anthropic's messages: their JSON to a generation, and its answer to their JSON."""

import asyncio
import json
from typing import Any, cast

from fastapi import APIRouter, Request, Response

from gateway import sse
from gateway.auth import CurrentCaller, KeyedRoute, requires
from gateway.dropin import ReadBody, about, answers_with, body_of, respond
from gateway.errors import VENDOR_ERRORS, Problem, anthropic_error
from gateway.fields import Fields, fields_of, message
from parley.domain.errors import InvalidInput
from parley.domain.gateway_keys import Scope
from parley.domain.generate.contract import GenerateResult
from parley.domain.model import Model
from parley.domain.reply_json import read_written_json
from parley.domain.requests import Finish, Message, NamedTool, ToolCall, ToolChoice, Usage
from parley.domain.streaming import Delta, TextDelta, ToolCallDelta
from parley.domain.tokens import count_json, count_messages

router = APIRouter(prefix="/v1", tags=["anthropic"], route_class=KeyedRoute, responses=VENDOR_ERRORS)

PATH = "/messages"
STOP_REASONS = {
    Finish.STOP: "end_turn",
    Finish.TOOL_CALLS: "tool_use",
    Finish.LENGTH: "max_tokens",
    Finish.REFUSED: "refusal",
    Finish.CANCELLED: "max_tokens",
}
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
# Fields that Parley does not have, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
    "thinking": ({"type": "disabled"},),
}
HINTS = {"workspace_id": "is not supported: the key decides the workspace"}
NAMES = {
    "user_id": "metadata.user_id",
    "stop": "stop_sequences",
    "response_schema": "output_config.format.schema",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
CACHE_CONTROL = "cache_control"
# An argument of a call that is not a JSON object, which Anthropic's format cannot express.
UNREADABLE = "unreadable_arguments"


class TokenCount(Model):
    """About how many input tokens messages have: vendors count differently."""

    input_tokens: int


@router.post(PATH, **answers_with(requires(Scope.GENERATE), "messages", "model", "max_tokens"))
async def create_message(caller: CurrentCaller, request: Request) -> Response:
    """Answer a chat in Anthropic's format; with `stream`, as it is written."""
    asked = read(await fields_of(request))
    return await respond(request, caller, asked, lambda id: Reply(id, asked.model))


@router.post(f"{PATH}/count_tokens", openapi_extra=requires(Scope.GENERATE) | body_of("messages", "model"))
async def count_message_tokens(request: Request) -> TokenCount:
    """Estimate the input tokens of a request. It is free: no provider is asked."""
    asked = read(await fields_of(request), needs_max_tokens=False).arguments
    return TokenCount(input_tokens=await asyncio.to_thread(_count, asked))


def _count(asked: dict[str, Any]) -> int:
    schema = asked.get("response_schema")
    described = [*asked["tools"], *([schema] if schema else [])]
    return count_messages(asked["messages"]) + sum(map(count_json, described))


def read(fields: Fields, *, needs_max_tokens: bool = True) -> ReadBody:
    """What a body asks for.

    Raises:
        InvalidInput: it asks for what Parley does not have, or is not valid; the error names the field.
    """
    cached = _Hints()
    cached.drop(fields)
    model = fields.need("model", str)
    most = fields.need("max_tokens", int) if needs_max_tokens else None
    system = _system(fields, cached)
    said = [one for each in fields.each("messages") for one in _messages(each, cached)]
    choice, parallel = _tool_choice(fields)
    arguments: dict[str, Any] = {
        "messages": [*system, *said],
        "max_tokens": most,
        "temperature": fields.take("temperature", float),
        "top_p": fields.take("top_p", float),
        "stop": fields.texts("stop_sequences"),
        "tools": [_tool(one, cached) for one in fields.each("tools")],
        "tool_choice": choice,
        "parallel_tool_calls": parallel,
        "response_schema": _schema(fields.inner("output_config")),
    }
    stream = fields.take("stream", bool) or False
    user = _user(fields.inner("metadata"))
    for name, values in NEUTRAL.items():
        fields.allow(name, *values)
    fields.end(**HINTS)
    given = {name: value for name, value in arguments.items() if value is not None}
    return ReadBody(model=model, arguments=given, user=user, stream=stream, names=NAMES, dropped=cached.names)


class _Hints:
    """Whether `cache_control` is given anywhere: it asks for a lower price and changes no answer, so it is dropped."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()

    def drop(self, fields: Fields) -> None:
        if fields.drop(CACHE_CONTROL):
            self.names = (CACHE_CONTROL,)


def _user(metadata: Fields | None) -> str | None:
    if metadata is None:
        return None
    user = metadata.take("user_id", str)
    metadata.end()
    return user


def _schema(config: Fields | None) -> dict[str, Any] | None:
    wanted = config.inner("format") if config else None
    if config:
        config.end()
    if wanted is None:
        return None
    wanted.one_of("type", ("json_schema",))
    schema = wanted.need("schema", dict)
    wanted.end()
    return schema


def _system(fields: Fields, cached: _Hints) -> list[Message]:
    if fields.is_text("system"):
        return [message("system", role="system", content=fields.need("system", str))]
    parts = [_text(part, cached) for part in fields.each("system")]
    return [message("system", role="system", content=parts)] if parts else []


def _text(part: Fields, cached: _Hints) -> dict[str, Any]:
    part.one_of("type", ("text",))
    return _ended(part, {"type": "text", "text": part.need("text", str)}, cached)


def _ended(part: Fields, made: dict[str, Any], cached: _Hints) -> dict[str, Any]:
    cached.drop(part)
    part.allow("citations", [])
    part.end()
    return made


def _messages(fields: Fields, cached: _Hints) -> list[Message]:
    """The messages that one of Anthropic's is: a message for each result of a tool, and one for the rest.

    Images in results of tools are in the latter, where every vendor takes them.
    """
    role = fields.one_of("role", ("user", "assistant", "system"))
    if fields.is_text("content"):
        content = fields.need("content", str)
        fields.end()
        return [message(fields.path, role=role, content=content)]
    results: list[Message] = []
    calls: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    kinds = {"user": ("text", "image", "tool_result"), "assistant": ("text", "tool_use")}.get(role, ("text",))
    for part in fields.each("content"):
        match part.one_of("type", kinds):
            case "tool_result":
                result, images = _result(part, cached)
                results.append(result)
                parts.extend(images)
            case "tool_use":
                calls.append(_call(part, cached))
            case "image":
                parts.append(_ended(part, _image(part), cached))
            case _:
                parts.append(_ended(part, {"type": "text", "text": part.need("text", str)}, cached))
    fields.end()
    if results and not parts:
        return results
    if not parts and not calls:
        raise InvalidInput("is missing: it must be a text, or parts", field=fields.place("content"))
    return [*results, message(fields.path, role=role, content=parts or None, tool_calls=calls)]


def _image(part: Fields) -> dict[str, Any]:
    source = part.inner("source")
    if source is None:
        raise InvalidInput("is missing: it must be an object", field=part.place("source"))
    if source.one_of("type", ("base64", "url")) == "url":
        image = {"type": "image", "url": source.need("url", str)}
    else:
        image = {"type": "image", "media_type": source.need("media_type", str), "data": source.need("data", str)}
    source.end()
    return image


def _call(part: Fields, cached: _Hints) -> dict[str, Any]:
    call = {
        "id": part.need("id", str),
        "name": part.need("name", str),
        "arguments": json.dumps(part.need("input", dict), ensure_ascii=False),
    }
    part.allow("caller", {"type": "direct"})
    return _ended(part, call, cached)


def _result(part: Fields, cached: _Hints) -> tuple[Message, list[dict[str, Any]]]:
    """The result of a tool, and its images. Other vendors have no mark for a failed one: the text says so."""
    call_id, failed = part.need("tool_use_id", str), part.take("is_error", bool) or False
    images: list[dict[str, Any]] = []
    if part.is_text("content"):
        text = part.need("content", str)
    else:
        texts: list[str] = []
        for one in part.each("content"):
            if one.one_of("type", ("text", "image")) == "image":
                images.append(_ended(one, _image(one), cached))
                texts.append("(see the image)")
            else:
                texts.append(one.need("text", str))
                _ended(one, {}, cached)
        text = "\n".join(texts)
    _ended(part, {}, cached)
    return message(part.path, role="tool", tool_call_id=call_id, content=f"Error: {text}" if failed else text), images


def _tool(fields: Fields, cached: _Hints) -> dict[str, Any]:
    fields.allow("type", "custom")
    given = {
        "name": fields.need("name", str),
        "description": fields.take("description", str),
        "parameters": fields.need("input_schema", dict),
        "strict": fields.take("strict", bool),
    }
    _ended(fields, {}, cached)
    return {name: value for name, value in given.items() if value is not None}


def _tool_choice(fields: Fields) -> tuple[ToolChoice | str | None, bool | None]:
    """The choice, and whether the model may call several tools at once."""
    choice = fields.inner("tool_choice")
    if choice is None:
        return None, None
    kind = choice.one_of("type", (*TOOL_CHOICES, "tool"))
    single = choice.take("disable_parallel_tool_use", bool)
    wanted = NamedTool(name=choice.need("name", str)) if kind == "tool" else TOOL_CHOICES[kind]
    choice.end()
    return wanted, None if single is None else not single


class Reply:
    """One answer as a message, or as the events of its stream. `model`: as the caller named it."""

    def __init__(self, id: str, model: str) -> None:
        self._head = {"id": f"msg_{id}", "type": "message", "role": "assistant"}
        self._model = model
        self._block = -1
        self._text_is_open = False
        self._calls: dict[int, ToolCallDelta] = {}

    def body(self, result: GenerateResult) -> dict[str, Any]:
        """The message."""
        text = [{"type": "text", "text": result.content}] if result.content else []
        calls = [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)} for call in result.tool_calls
        ]
        return {
            **self._head,
            "model": result.meta.answered_by or self._model,
            "content": [*text, *calls],
            "stop_reason": _stop_reason(result),
            "stop_sequence": None,
            "usage": _usage(result.meta.usage),
        }

    def begin(self) -> str:
        """The event with the empty message. Its usage is known at the end."""
        usage = {**_usage(Usage()), "output_tokens": 0}
        empty = {"model": self._model, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return _frame("message_start", message={**self._head, **empty})

    def delta(self, delta: Delta) -> str:
        """The events for a delta. A call is sent at the end, since its arguments must be an object."""
        if isinstance(delta, TextDelta):
            start = "" if self._text_is_open else self._start({"type": "text", "text": ""})
            self._text_is_open = True
            return start + self._delta({"type": "text_delta", "text": delta.text})
        known = self._calls.get(delta.index)
        more = {"arguments": known.arguments + delta.arguments} if known else {}
        self._calls[delta.index] = known.model_copy(update=more) if known else delta
        return ""

    def end(self, result: GenerateResult) -> str:
        """The events with the calls, the reason of the end and the usage."""
        calls = "".join(self._call(call) for _, call in sorted(self._calls.items()))
        stopped = {"stop_reason": _stop_reason(result), "stop_sequence": None}
        last = _frame("message_delta", delta=stopped, usage=_usage(result.meta.usage), parley=about(result.meta))
        return f"{calls}{self._stop()}{last}{_frame('message_stop')}"

    def error(self, problem: Problem) -> str:
        """The event of an error. Anthropic's SDKs raise it."""
        shape = anthropic_error(problem)
        return _frame(shape.pop("type"), **shape)

    def _call(self, call: ToolCallDelta) -> str:
        whole = ToolCall.model_construct(id=call.id, name=call.name, arguments=call.arguments)
        arguments = json.dumps(_input(whole), ensure_ascii=False)
        start = self._start({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
        return start + self._delta({"type": "input_json_delta", "partial_json": arguments})

    def _start(self, block: dict[str, Any]) -> str:
        stop = self._stop()
        self._block += 1
        return stop + _frame("content_block_start", index=self._block, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> str:
        return _frame("content_block_delta", index=self._block, delta=delta)

    def _stop(self) -> str:
        self._text_is_open = False
        return _frame("content_block_stop", index=self._block) if self._block >= 0 else ""


def _input(call: ToolCall) -> dict[str, Any]:
    try:
        read = read_written_json(call.arguments)
    except ValueError:
        read = None
    return cast("dict[str, Any]", read) if isinstance(read, dict) else {UNREADABLE: call.arguments}


def _stop_reason(result: GenerateResult) -> str:
    return STOP_REASONS[result.meta.finish or (Finish.TOOL_CALLS if result.tool_calls else Finish.STOP)]


def _usage(usage: Usage) -> dict[str, int]:
    """What the provider counted, as Anthropic names it: cached tokens apart."""
    apart = usage.cached_input_tokens + usage.cache_write_tokens
    return {
        "input_tokens": max(usage.input_tokens - apart, 0),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    }


def _frame(kind: str, **data: Any) -> str:
    return sse.frame({"type": kind, **data}, kind)
