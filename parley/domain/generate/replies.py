"""From a reply to a result: with a response schema, the JSON in a reply must follow it."""

from typing import Any

from parley.domain.generate.contract import INLINE_BYTES, GenerateResult, Job, Meta, Prompt, Serving
from parley.domain.json_check import PROBLEM_CHARACTERS, checked
from parley.domain.reply_json import read_reply_json
from parley.domain.requests import ChatReply, Finish, Reply
from parley.domain.text import one_line


def parsed(text: str, schema: dict[str, Any]) -> tuple[Any, str]:
    """The value in a reply's text and "", or None and one line that says what is wrong."""
    try:
        value = read_reply_json(text)
    except ValueError as error:
        return None, one_line(f"the reply is not JSON: {error}", PROBLEM_CHARACTERS)
    return checked(value, schema)


def chat_reply(reply: Reply) -> ChatReply:
    """The reply to a chat request, which is a chat reply."""
    assert isinstance(reply, ChatReply)  # noqa: S101 - a fingerprint belongs to one kind of request
    return reply


def read_answer(reply: Reply, prompt: Prompt) -> tuple[Any, str]:
    """The parsed value of a reply and "", or None and what is wrong.

    Both are empty for free text, where the model calls tools, since its answer comes after their results, and where
    the request was cancelled.
    """
    answer = chat_reply(reply)
    if prompt.reply_schema is None or answer.tool_calls or answer.finish is Finish.CANCELLED:
        return None, ""
    return parsed(answer.text, prompt.reply_schema)


def initial_meta(job: Job, serving: Serving) -> Meta:
    """What is known of a generation before any provider is called."""
    return Meta(
        request_id=job.request_id,
        template=serving.template,
        experiment=serving.experiment,
        arm=serving.arm,
        warnings=serving.warnings,
    )


def answered(job: Job, reply: ChatReply, value: Any, meta: Meta) -> GenerateResult:
    """The result for an answer. A long answer, and that of a turn, stays in the database and out of the history."""
    if (
        job.is_turn
        or len(reply.text.encode()) + sum(len(call.model_dump_json()) for call in reply.tool_calls) > INLINE_BYTES
    ):
        return GenerateResult(success=True, stored=True, meta=meta)
    return GenerateResult(success=True, content=reply.text, tool_calls=reply.tool_calls, parsed=value, meta=meta)
