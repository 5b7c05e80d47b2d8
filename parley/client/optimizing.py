"""`client.optimize`: a conversation's history within a number of tokens, by a paid summary of its earlier part."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence

from parley.client.backend import Backend
from parley.client.generate import generate, generate_input
from parley.domain.errors import InvalidInput, ParleyError
from parley.domain.generate.condensing import (
    KEEP,
    SUMMARY_TOKENS,
    TEMPERATURE,
    Split,
    split_to_condense,
    summary_request,
    with_summary,
)
from parley.domain.generate.contract import CachePolicy, GenerateInput, Meta, Refusal
from parley.domain.model import Model
from parley.domain.requests import Message
from parley.domain.tokens import count_messages


class Optimized(Model):
    """A history within its budget.

    condensed_messages: how many messages the summary replaces; 0 where nothing had to be done.
    refusal: why there is no summary, for example energy; `messages` are the given ones then.
    meta: what the summary cost; None where none was needed.
    """

    messages: tuple[Message, ...]
    tokens_before: int
    tokens_after: int
    tokens_saved: int
    condensed_messages: int = 0
    refusal: Refusal | None = None
    meta: Meta | None = None


class SummaryLost(ParleyError):
    """The generation of a summary ended without a text."""


async def optimize(backend: Backend, request: GenerateInput, budget_tokens: int) -> Optimized:
    """Bring a history within a number of tokens. `Client.optimize` documents it.

    Raises:
        InvalidInput: the messages that stay as they are have too many tokens.
    """
    given = request.prompt.messages
    before = await asyncio.to_thread(count_messages, given)
    if before <= budget_tokens:
        return Optimized(messages=given, tokens_before=before, tokens_after=before, tokens_saved=0)
    split = await asyncio.to_thread(_split, given, budget_tokens)
    result = await generate(backend, _summary(request, split), _key(request, budget_tokens))
    if result.content is None:
        if result.refusal is None:
            raise SummaryLost("the summary of the history has no text")
        return Optimized(
            messages=given, tokens_before=before, tokens_after=before, tokens_saved=0, refusal=result.refusal
        )
    messages = with_summary(split, result.content)
    after = await asyncio.to_thread(count_messages, messages)
    return Optimized(
        messages=messages,
        tokens_before=before,
        tokens_after=after,
        tokens_saved=before - after,
        condensed_messages=len(split.earlier),
        meta=result.meta,
    )


def _split(messages: Sequence[Message], budget_tokens: int) -> Split:
    """The split that keeps as many of the last messages as fit beside a summary.

    Raises:
        InvalidInput: not even the system prompts and the last message fit, with the call that it answers.
    """
    needed = count_messages(messages)
    for keep in range(KEEP, 0, -1):
        if split := split_to_condense(messages, keep=keep):
            size = count_messages((*split.system, *split.recent)) + SUMMARY_TOKENS
            if size <= budget_tokens:
                return split
            needed = min(needed, size)
    raise InvalidInput(
        f"is too small: the system prompts, the last message and a summary need {needed} tokens", where="budget_tokens"
    )


def _summary(request: GenerateInput, split: Split) -> GenerateInput:
    """The generation of the summary, on the terms of the request."""
    return generate_input(
        request.workspace_id,
        summary_request(split).messages,
        user_id=request.user_id,
        action=request.action,
        provider=request.provider,
        model=request.model,
        max_tokens=SUMMARY_TOKENS,
        temperature=TEMPERATURE,
        cache=CachePolicy.OFF,
    )


def _key(request: GenerateInput, budget_tokens: int) -> str:
    """The same history within the same budget is summarized and paid once."""
    asked = json.dumps([request.fingerprint(), budget_tokens])
    return f"optimize-{hashlib.sha256(asked.encode()).hexdigest()[:32]}"
