"""OpenAI's chat completions: their JSON to a generation, and its answer to their JSON."""

import time
from typing import Any

from fastapi import APIRouter, Request, Response

from gateway import sse
from gateway.auth import CurrentCaller, KeyedRoute, requires
from gateway.dropin import ReadBody, about, answers_with, respond
from gateway.errors import VENDOR_ERRORS, Problem, openai_error
from gateway.fields import Fields, fields_of, message
from parley.domain.errors import InvalidInput
from parley.domain.gateway_keys import Scope
from parley.domain.generate.contract import GenerateResult
from parley.domain.requests import Finish, Message, NamedTool, ToolChoice, Usage
from parley.domain.streaming import Delta, TextDelta

router = APIRouter(prefix="/v1", tags=["openai"], route_class=KeyedRoute, responses=VENDOR_ERRORS)

PATH = "/chat/completions"
FINISHES = {
    Finish.STOP: "stop",
    Finish.TOOL_CALLS: "tool_calls",
    Finish.LENGTH: "length",
    Finish.REFUSED: "content_filter",
    Finish.CANCELLED: "length",
}
# Fields that Parley does not have, with the values that ask for nothing: those of OpenAI's documentation.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "store": (False,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "metadata": ({},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
}
HINTS = {
    "functions": "is not supported: use `tools`",
    "function_call": "is not supported: use `tool_choice`",
    "prompt_cache_key": "is not supported: Parley's own cache is chosen with the header x-parley-cache",
}
NAMES = {"user_id": "user", "response_schema": "response_format.json_schema.schema"}


@router.post(PATH, **answers_with(requires(Scope.GENERATE), "messages", "model"))
async def create_completion(caller: CurrentCaller, request: Request) -> Response:
    """Answer a chat in OpenAI's format; with `stream`, as it is written."""
    fields = await fields_of(request)
    asked, with_usage = read(fields)
    return await respond(request, caller, asked, lambda id: Completion(id, asked.model, with_usage=with_usage))


def read(fields: Fields) -> tuple[ReadBody, bool]:
    """What a body asks for, and whether a stream ends with its usage.

    Raises:
        InvalidInput: it asks for what Parley does not have, or is not valid; the error names the field.
    """
    stream = fields.take("stream", bool) or False
    with_usage = _stream_options(fields, stream=stream)
    arguments: dict[str, Any] = {
        "messages": [_message(one) for one in fields.each("messages")],
        "temperature": fields.take("temperature", float),
        "top_p": fields.take("top_p", float),
        "seed": fields.take("seed", int),
        "stop": fields.texts("stop"),
        "tools": [_tool(one) for one in fields.each("tools")],
        "tool_choice": _tool_choice(fields),
        "parallel_tool_calls": fields.take("parallel_tool_calls", bool),
        **_max_tokens(fields),
        **_response_format(fields.inner("response_format")),
    }
    model = fields.need("model", str)
    user, safety = fields.take("user", str), fields.take("safety_identifier", str)
    for name, values in NEUTRAL.items():
        fields.allow(name, *values)
    fields.end(**HINTS)
    given = {name: value for name, value in arguments.items() if value is not None}
    names = NAMES if user else {**NAMES, "user_id": "safety_identifier"}
    return ReadBody(model=model, arguments=given, user=user or safety, stream=stream, names=names), with_usage


def _stream_options(fields: Fields, *, stream: bool) -> bool:
    options = fields.inner("stream_options")
    if options is None:
        return False
    if not stream:
        raise InvalidInput("is only for a stream: set `stream`", field="stream_options")
    with_usage = options.take("include_usage", bool) or False
    options.allow("include_obfuscation", False)
    options.end()
    return with_usage


def _max_tokens(fields: Fields) -> dict[str, int]:
    old, new = fields.take("max_tokens", int), fields.take("max_completion_tokens", int)
    if old is not None and new is not None and old != new:
        raise InvalidInput("differs from max_completion_tokens: give one of them", field="max_tokens")
    most = new if new is not None else old
    return {} if most is None else {"max_tokens": most}


def _response_format(fields: Fields | None) -> dict[str, Any]:
    if fields is None:
        return {}
    kind = fields.one_of("type", ("text", "json_object", "json_schema"))
    schema = fields.inner("json_schema") if kind == "json_schema" else None
    fields.end()
    if kind != "json_schema":
        return {"json_object": True} if kind == "json_object" else {}
    if schema is None:
        raise InvalidInput("is missing: it must be an object", field=fields.place("json_schema"))
    wanted = schema.need("schema", dict)
    described = schema.take("description", str)
    schema.take("strict", bool)  # an answer always follows the schema
    name = schema.need("name", str)
    schema.end()
    if described and "description" not in wanted:
        wanted = {**wanted, "description": described}
    return {"response_schema": wanted, "schema_name": name}


def _message(fields: Fields) -> Message:
    role = fields.one_of("role", ("system", "developer", "user", "assistant", "tool"))
    refusal = fields.take("refusal", str) if role == "assistant" else None
    content = fields.take("content", str) if fields.is_text("content") else _parts(fields, role) or None
    calls = [_call(one) for one in fields.each("tool_calls")]
    answers = fields.take("tool_call_id", str)
    for name in ("annotations", "audio", "function_call"):  # in OpenAI's own replies, which come back as they are
        fields.allow(name, [])
    fields.end(name="is not supported: put the name into the content")
    return message(
        fields.path, role=role, content=content or refusal or content, tool_calls=calls, tool_call_id=answers
    )


def _parts(fields: Fields, role: str) -> list[dict[str, Any]]:
    return [_part(one, role) for one in fields.each("content")]


def _part(fields: Fields, role: str) -> dict[str, Any]:
    kinds = {"user": ("text", "image_url"), "assistant": ("text", "refusal")}
    kind = fields.one_of("type", kinds.get(role, ("text",)))
    part = _image(fields) if kind == "image_url" else {"type": "text", "text": fields.need(kind, str)}
    fields.end()
    return part


def _image(fields: Fields) -> dict[str, Any]:
    """An image with its data, or with its address, which is passed on and never fetched."""
    image = fields.inner("image_url")
    if image is None:
        raise InvalidInput("is missing: it must be an object", field=fields.place("image_url"))
    url, detail = image.need("url", str), image.take("detail", str)
    image.end()
    part: dict[str, Any] = {"type": "image", "detail": detail}
    if not url.startswith("data:"):
        return part | {"url": url}
    head, comma, data = url.removeprefix("data:").partition(",")
    if not comma or not head.endswith(";base64"):
        raise InvalidInput("must be https://… or data:image/…;base64,…", field=image.place("url"))
    media_type = head.removesuffix(";base64")
    # OpenAI takes the name that is not registered, too.
    return part | {"media_type": "image/jpeg" if media_type == "image/jpg" else media_type, "data": data}


def _call(fields: Fields) -> dict[str, Any]:
    fields.one_of("type", ("function",))
    function = fields.inner("function")
    if function is None:
        raise InvalidInput("is missing: it must be an object", field=fields.place("function"))
    call = {
        "id": fields.need("id", str),
        "name": function.need("name", str),
        "arguments": function.need("arguments", str),
    }
    fields.end()
    function.end()
    return call


def _tool(fields: Fields) -> dict[str, Any]:
    fields.one_of("type", ("function",))
    function = fields.inner("function")
    if function is None:
        raise InvalidInput("is missing: it must be an object", field=fields.place("function"))
    given = {
        "name": function.need("name", str),
        "description": function.take("description", str),
        "parameters": function.take("parameters", dict),
        "strict": function.take("strict", bool),
    }
    fields.end()
    function.end()
    return {name: value for name, value in given.items() if value is not None}


def _tool_choice(fields: Fields) -> ToolChoice | str | None:
    if fields.is_text("tool_choice"):
        return fields.one_of("tool_choice", ("auto", "none", "required"))
    choice = fields.inner("tool_choice")
    if choice is None:
        return None
    choice.one_of("type", ("function",))
    function = choice.inner("function")
    if function is None:
        raise InvalidInput("is missing: it must be an object", field=choice.place("function"))
    named = NamedTool(name=function.need("name", str))
    function.end()
    choice.end()
    return named


class Completion:
    """One answer as a chat completion, or as its chunks. `model`: as the caller named it."""

    def __init__(self, id: str, model: str, *, with_usage: bool) -> None:
        self._model, self._with_usage = model, with_usage
        self._head = {"id": f"chatcmpl-{id}", "created": int(time.time())}

    def body(self, result: GenerateResult) -> dict[str, Any]:
        """The completion."""
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in result.tool_calls
        ]
        said = {"role": "assistant", "content": result.content or (None if calls else ""), "refusal": None}
        choice = {
            "index": 0,
            "message": said | ({"tool_calls": calls} if calls else {}),
            "logprobs": None,
            "finish_reason": finish_of(result),
        }
        return {
            **self._head,
            "object": "chat.completion",
            "model": result.meta.answered_by or self._model,
            "choices": [choice],
            "usage": usage_of(result.meta.usage),
        }

    def begin(self) -> str:
        """The chunk with the role."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def delta(self, delta: Delta) -> str:
        """The chunk with a delta."""
        if isinstance(delta, TextDelta):
            return self._chunk({"content": delta.text})
        function = {"name": delta.name} if delta.name else {}
        start = {"id": delta.id, "type": "function"} if delta.id else {}
        call = {"index": delta.index, **start, "function": {**function, "arguments": delta.arguments}}
        return self._chunk({"tool_calls": [call]})

    def end(self, result: GenerateResult) -> str:
        """The chunk with the reason of the end, that with the usage, and the end of the stream."""
        last = self._chunk({}, finish_of(result), parley=about(result.meta))
        if self._with_usage:
            last += sse.frame({**self._of_chunk, "choices": [], "usage": usage_of(result.meta.usage)})
        return f"{last}data: [DONE]\n\n"

    def error(self, problem: Problem) -> str:
        """The error. OpenAI's SDKs raise it."""
        return sse.frame(openai_error(problem))

    @property
    def _of_chunk(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "model": self._model}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._with_usage else {}
        return sse.frame({**self._of_chunk, "choices": [choice], **usage, **more})


def finish_of(result: GenerateResult) -> str:
    """OpenAI's reason of an end. That of a cached answer is not stored: it is a whole one."""
    return FINISHES[result.meta.finish or (Finish.TOOL_CALLS if result.tool_calls else Finish.STOP)]


def usage_of(usage: Usage) -> dict[str, Any]:
    """What the provider counted, as OpenAI names it."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
    }
