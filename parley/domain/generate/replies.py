"""From a reply to a result. With a response schema, the whole text of a reply must be JSON that follows it."""

import json
import math
import re
from typing import Any, cast

from jsonschema import Draft202012Validator  # pyright: ignore[reportMissingTypeStubs]
from jsonschema.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    SchemaError,
    best_match,  # pyright: ignore[reportUnknownVariableType]
)
from jsonschema.validators import validator_for  # pyright: ignore[reportMissingTypeStubs]
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from parley.domain.errors import InvalidInput
from parley.domain.generate.contract import INLINE_BYTES, GenerateResult, Job, Meta, Prompt, Serving
from parley.domain.model import storable
from parley.domain.requests import ChatReply, Reply
from parley.domain.text import one_line

# Some models always add a fence. Any other text around the JSON makes the reply invalid.
FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL | re.IGNORECASE)
PROBLEM_CHARACTERS = 200
# Temporal's payloads and the database accept deeper values; no schema needs them.
MAX_DEPTH = 100


def check_schema(schema: dict[str, Any]) -> None:
    """Refuse an invalid response schema before anything is paid.

    Raises:
        InvalidInput: naming the place in the schema.
    """
    try:
        cast(Any, validator_for(schema, default=Draft202012Validator)).check_schema(schema)
    except SchemaError as error:
        place = "/".join(["response_schema", *map(str, error.absolute_path)])
        raise InvalidInput(_problem_line(error.message), field=place) from None


def parsed(text: str, schema: dict[str, Any]) -> tuple[Any, str]:
    """The value in a reply's text and "", or None and one line that says what is wrong."""
    try:
        value = _loaded(text)
    except (ValueError, RecursionError) as error:
        return None, _problem_line(f"the reply is not JSON: {error}")
    problem = _problem(value, schema)
    return (None, problem) if problem else (value, "")


def chat_reply(reply: Reply) -> ChatReply:
    """The reply to a chat request, which is a chat reply."""
    assert isinstance(reply, ChatReply)  # noqa: S101 - a fingerprint belongs to one kind of request
    return reply


def read_answer(reply: Reply, prompt: Prompt) -> tuple[Any, str]:
    """The parsed value of a reply and "", or None and what is wrong. Without a response schema both are empty."""
    if prompt.response_schema is None:
        return None, ""
    return parsed(chat_reply(reply).text, prompt.response_schema)


def initial_meta(job: Job, serving: Serving) -> Meta:
    """What is known of a generation before any provider is called."""
    return Meta(
        request_id=job.request_id,
        template=serving.template,
        experiment=serving.experiment,
        arm=serving.arm,
        warnings=serving.warnings,
    )


def answered(reply: ChatReply, value: Any, meta: Meta) -> GenerateResult:
    """The result for an answer. A long answer stays in the database and out of the history."""
    if len(reply.text.encode()) > INLINE_BYTES:
        return GenerateResult(success=True, stored=True, meta=meta)
    return GenerateResult(success=True, content=reply.text, parsed=value, meta=meta)


def _loaded(text: str) -> Any:
    fenced = FENCED.fullmatch(text.strip())
    value = json.loads(fenced[1] if fenced else text, parse_float=_finite, parse_constant=_finite)
    # JSON escapes can spell characters that PostgreSQL does not store.
    return storable(value, max_depth=MAX_DEPTH)


def _finite(number: str) -> float:
    """Refuse NaN, Infinity and 1e999: Python's parser accepts them, JSON and the database do not."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is not a number")
    return value


def _problem(value: Any, schema: dict[str, Any]) -> str:
    """The most relevant violation. The registry is empty, so that no schema is fetched over the network."""
    kind = cast(Any, validator_for(schema, default=Draft202012Validator))
    try:
        error = cast(Any, best_match(kind(schema, registry=EMPTY_REGISTRY).iter_errors(value)))
    except Unresolvable as missing:
        return _problem_line(f"the schema refers to {missing.ref!r}, which it does not hold")
    except RecursionError:
        return "the schema refers to itself without end"
    if error is None:
        return ""
    place = ".".join(map(str, error.absolute_path)) or "the reply"
    return _problem_line(f"{place}: {error.message}")


def _problem_line(problem: str) -> str:
    return one_line(problem, PROBLEM_CHARACTERS)
