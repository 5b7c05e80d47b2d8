"""Reading the JSON requests of the chat endpoints."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from simulator.wire import Message, Refusal


async def json_object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError as problem:
        raise Refusal("bad_request", "We could not parse the JSON body of your request.") from problem
    if not isinstance(body, dict):
        raise Refusal("bad_request", "The body of your request must be a JSON object.")
    return body


def content_text(content: object) -> str:
    """A message's text, given as a string or as blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(block.get("text", "") for block in content if isinstance(block, dict))


def messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise Refusal("bad_request", "messages: at least one message is required", param="messages")
    found: list[Message] = []
    for number, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal("bad_request", f"messages.{number}.role: Field required", param="messages")
        found.append(Message(message["role"], content_text(message.get("content"))))
    return tuple(found)


def positive(body: Mapping[str, Any], field: str) -> int | None:
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or value < 1:
        raise Refusal("bad_request", f"{field}: must be greater than or equal to 1", param=field)
    return value
