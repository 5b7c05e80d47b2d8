"""What a caller is told: the result of a generation from a reply, and how it came about."""

from typing import Any

from parley.domain.generate.contract import INLINE_BYTES, GenerateResult, Job, Meta, Prompt, Serving
from parley.domain.generate.parsing import parsed
from parley.domain.requests import ChatReply, Reply


def meta_of(job: Job, serving: Serving) -> Meta:
    """What is known of a generation before anybody was asked."""
    return Meta(
        request_id=job.request_id,
        template=serving.template,
        experiment=serving.experiment,
        arm=serving.arm,
        warnings=serving.warnings,
    )


def chat_reply(reply: Reply) -> ChatReply:
    """The reply to a chat request, which is a chat reply."""
    assert isinstance(reply, ChatReply)  # noqa: S101 - the ledger's fingerprints keep kinds of requests apart
    return reply


def read(reply: Reply, prompt: Prompt) -> tuple[Any, str]:
    """The parsed value of a reply, where a schema asks for one, and what is wrong with it."""
    if prompt.response_schema is None:
        return None, ""
    return parsed(chat_reply(reply).text, prompt.response_schema)


def answered(reply: ChatReply, value: Any, meta: Meta) -> GenerateResult:
    """An answer. A long one stays in the database: a history is no place for it."""
    if len(reply.text.encode()) > INLINE_BYTES:
        return GenerateResult(success=True, stored=True, meta=meta)
    return GenerateResult(success=True, content=reply.text, parsed=value, meta=meta)
