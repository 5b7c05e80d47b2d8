"""The vendors' rules for messages and tools: a function reads them, or raises Refusal in the vendor's words."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from simulator.images import anthropic_image_problem, openai_image_problem
from simulator.schema_rules import anthropic_problem, openai_problem
from simulator.tools import Tool, ToolChoice
from simulator.wire import Message, Refusal, content_text

OPENAI_NAME, ANTHROPIC_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}"), re.compile(r"[A-Za-z0-9_-]{1,128}")
ANTHROPIC_ID = re.compile(r"[A-Za-z0-9_-]+")
OPENAI_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
Block = Mapping[str, Any]


def _refuse(message: str, param: str, code: str | None = None) -> Refusal:
    return Refusal("bad_request", message, param=param, code=code)


# OpenAI


def openai_messages(value: object) -> tuple[Message, ...]:
    """Read messages. Each tool call must be answered, and each answer must have its call."""
    if not isinstance(value, list) or not value:
        raise _refuse("messages: at least one message is required", "messages")
    waiting: list[str] = []
    messages: list[Message] = []
    for number, message in enumerate(value):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in OPENAI_ROLES:
            raise _refuse(f"Invalid value: '{role}'. Supported values are: {OPENAI_ROLES}.", f"messages[{number}].role")
        if role == "tool":
            _answer(message, waiting, number)
        elif waiting:
            raise _unanswered(waiting)
        else:
            waiting = [str(call.get("id")) for call in message.get("tool_calls") or ()]
        messages.append(_openai_message(message, number))
    if waiting:
        raise _unanswered(waiting)
    return tuple(messages)


def _answer(message: Block, waiting: list[str], number: int) -> None:
    if message.get("tool_call_id") not in waiting:
        words = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
        raise _refuse(f"Invalid parameter: {words}", f"messages.[{number}].role")
    waiting.remove(message["tool_call_id"])


def _unanswered(waiting: Sequence[str]) -> Refusal:
    return _refuse(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {', '.join(waiting)}",
        "messages",
    )


def _openai_message(message: Block, number: int) -> Message:
    content, calls = message.get("content"), message.get("tool_calls") or ()
    if content is None and not calls and message["role"] not in ("assistant", "function"):
        raise _refuse("Invalid value for 'content': expected a string, got null.", f"messages.[{number}].content")
    images = 0
    for place, part in enumerate(content if isinstance(content, list) else ()):
        if part.get("type") == "image_url":
            _check_openai_image(message["role"], part, f"messages[{number}].content[{place}]")
            images += 1
        elif part.get("type") not in ("text", "refusal"):
            raise _refuse(f"Invalid value: '{part.get('type')}'.", f"messages[{number}].content[{place}].type")
    role = "system" if message["role"] == "developer" else message["role"]
    functions = [call.get("function") or {} for call in calls]
    called = " ".join(f"{function.get('name')} {function.get('arguments')}" for function in functions)
    return Message(role, content_text(content), images, called)


def _check_openai_image(role: str, part: Block, place: str) -> None:
    if role != "user":
        raise _refuse("Image URLs are only allowed for messages with role 'user'.", place)
    image = part.get("image_url") or {}
    problem = openai_image_problem(image.get("url") if isinstance(image, dict) else None)
    if problem:
        raise _refuse(problem, f"{place}.image_url", "invalid_image_url")


def openai_tools(body: Mapping[str, Any]) -> tuple[Tool, ...]:
    tools = body.get("tools")
    if tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if body.get(name) is not None:
                raise _refuse(f"'{name}' is only allowed when 'tools' are specified.", name)
        return ()
    if not isinstance(tools, list) or not tools:
        raise _refuse("Invalid 'tools': empty array. Expected an array with minimum length 1.", "tools")
    return tuple(_openai_tool(tool, number) for number, tool in enumerate(tools))


def _openai_tool(tool: Block, number: int) -> Tool:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict):
        raise _refuse(f"Missing required parameter: 'tools[{number}].function'.", f"tools[{number}].function")
    name = function.get("name")
    if not isinstance(name, str) or not OPENAI_NAME.fullmatch(name):
        words = "string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
        raise _refuse(f"Invalid 'tools[{number}].function.name': {words}", f"tools[{number}].function.name")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    problem = openai_problem(schema) if function.get("strict") else _object_problem(schema)
    if problem:
        place = f"tools[{number}].function.parameters"
        raise _refuse(f"Invalid schema for function '{name}': {problem}", place, "invalid_function_parameters")
    return Tool(name, str(function.get("description") or ""), schema)


def _object_problem(schema: object) -> str | None:
    kind = schema.get("type") if isinstance(schema, dict) else None
    return None if kind == "object" else f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."


def openai_choice(body: Mapping[str, Any], tools: Sequence[Tool]) -> ToolChoice:
    choice, parallel = body.get("tool_choice"), body.get("parallel_tool_calls") is not False
    if choice in (None, "auto", "none", "required"):
        return ToolChoice(choice or "auto", parallel=parallel)
    name = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    if name not in {tool.name for tool in tools}:
        raise _refuse(f"Tool choice '{name or choice}' not found in 'tools' parameter.", "tool_choice")
    return ToolChoice("tool", name, parallel)


# Anthropic


def anthropic_messages(value: Sequence[Block], has_tools: bool) -> tuple[Message, ...]:
    """Read messages whose roles are checked. The results of tools become messages of their own."""
    waiting: set[str] = set()
    messages: list[Message] = []
    for number, message in enumerate(value):
        content = message.get("content")
        blocks: list[Block] = content if isinstance(content, list) else [{"type": "text", "text": content}]
        answered = {str(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"}
        if unknown := answered - waiting:
            raise Refusal(
                "bad_request",
                f"messages.{number}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {min(unknown)}. "
                "Each `tool_result` block must have a corresponding `tool_use` block in the previous message.",
            )
        if missing := waiting - answered:
            raise _without_result(number - 1, missing)
        waiting = {str(block.get("id")) for block in blocks if block.get("type") == "tool_use"}
        if (answered or waiting) and not has_tools:
            words = "Requests which include `tool_use` or `tool_result` blocks must define tools."
            raise Refusal("bad_request", words)
        messages.extend(_anthropic_messages(message["role"], blocks, number))
    if waiting:
        raise _without_result(len(value) - 1, waiting)
    return tuple(messages)


def _without_result(number: int, ids: set[str]) -> Refusal:
    return Refusal(
        "bad_request",
        f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately after: "
        f"{', '.join(sorted(ids))}. Each `tool_use` block must have a corresponding `tool_result` block in the next "
        "message.",
    )


def _anthropic_messages(role: str, blocks: Sequence[Block], number: int) -> Iterator[Message]:
    texts: list[str] = []
    called: list[str] = []
    images = 0
    for place, block in enumerate(blocks):
        where = f"messages.{number}.content.{place}"
        match block.get("type"):
            case "text":
                texts.append(str(block.get("text") or ""))
            case "image":
                _check_anthropic_image(block, where)
                images += 1
            case "tool_use":
                called.append(_anthropic_call(block, where))
            case "tool_result":
                yield Message("tool", content_text(block.get("content")))
            case "thinking" | "redacted_thinking" | "document":
                continue
            case kind:
                raise Refusal("bad_request", f"{where}.type: Input tag '{kind}' is not one of the expected tags")
    if texts or images or called:
        yield Message(role, "\n".join(texts), images, " ".join(called))


def _check_anthropic_image(block: Block, where: str) -> None:
    source = block.get("source") or {}
    if source.get("type") == "url" and str(source.get("url")).startswith(("http://", "https://")):
        return
    if source.get("type") != "base64":
        raise Refusal("bad_request", f"{where}.image.source: Input should be a base64 or a URL source")
    problem = anthropic_image_problem(source.get("media_type"), source.get("data"))
    if problem:
        raise Refusal("bad_request", f"{where}.image.source.base64.{problem}")


def _anthropic_call(block: Block, where: str) -> str:
    if not ANTHROPIC_ID.fullmatch(str(block.get("id"))):
        raise Refusal("bad_request", f"{where}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    if not isinstance(block.get("input"), dict):
        raise Refusal("bad_request", f"{where}.tool_use.input: Input should be a valid dictionary")
    return f"{block.get('name')} {json.dumps(block['input'])}"


def anthropic_tools(body: Mapping[str, Any]) -> tuple[Tool, ...]:
    return tuple(_anthropic_tool(tool, number) for number, tool in enumerate(body.get("tools") or ()))


def _anthropic_tool(tool: Block, number: int) -> Tool:
    where, name, schema = f"tools.{number}.custom", tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not ANTHROPIC_NAME.fullmatch(name):
        raise Refusal("bad_request", f"{where}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    if not isinstance(schema, dict):
        raise Refusal("bad_request", f"{where}.input_schema: Field required")
    if schema.get("type") != "object":
        raise Refusal("bad_request", f"{where}.input_schema.type: Input should be 'object'")
    problem = anthropic_problem(schema) if tool.get("strict") else None
    if problem:
        raise Refusal("bad_request", f"{where}.input_schema: {problem}")
    return Tool(name, str(tool.get("description") or ""), schema)


def anthropic_choice(body: Mapping[str, Any], tools: Sequence[Tool]) -> ToolChoice:
    choice = body.get("tool_choice") or {"type": "auto"}
    if body.get("tool_choice") and not tools:
        raise Refusal("bad_request", "tool_choice may only be specified while providing tools")
    kind, name, parallel = choice.get("type"), choice.get("name"), not choice.get("disable_parallel_tool_use")
    if kind not in ("auto", "any", "tool", "none"):
        raise Refusal("bad_request", f"tool_choice: Input tag '{kind}' is not one of 'auto', 'any', 'tool', 'none'")
    if kind == "tool" and name not in {tool.name for tool in tools}:
        raise Refusal("bad_request", f"tool_choice: tool {name!r} not found in tools")
    return ToolChoice("required" if kind == "any" else kind, name if kind == "tool" else None, parallel)
