"""OpenAI's prompt cache, which needs no request: a prompt that begins like an earlier one costs less."""

from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

# 60 bytes, which the simulator counts as 15 tokens.
SENTENCE = "The export to CSV contains the notes of every new customer. "
Cached = Callable[..., Awaitable[int]]


def prompt(*texts: str) -> Any:
    return [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)]


@pytest.fixture
def cached(openai_client: openai.AsyncOpenAI) -> Cached:
    """The tokens of a prompt that were read from the cache."""

    async def ask(*texts: str, **terms: Any) -> int:
        asked: Any = {"model": "gpt-4o-mini", "messages": prompt(*texts)} | terms
        usage = (await openai_client.chat.completions.create(**asked)).usage
        assert usage is not None and usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens is not None
        assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens
        return usage.prompt_tokens_details.cached_tokens

    return ask


async def test_what_a_prompt_has_in_common_with_an_earlier_one_is_cached_in_steps_of_128_tokens(cached: Cached):
    long = SENTENCE * 100  # 1,500 tokens
    assert await cached(long, "Yes.", "How?") == 0
    assert await cached(long, "Yes.", "How?") == 1408
    assert await cached(long, "Yes.", "Why?", "So.", SENTENCE * 10) == 1408
    assert await cached(long, "Yes.", "Why?", "So.", SENTENCE * 10, "Ah.", "When?") == 1536
    assert await cached(f"No. {long}") == 0


async def test_below_1024_tokens_nothing_is_cached(cached: Cached):
    assert [await cached(SENTENCE * 68) for _ in range(2)] == [0, 0]  # 1,020 tokens
    assert [await cached(SENTENCE * 69) for _ in range(2)] == [0, 1024]


async def test_a_beginning_is_cached_for_its_model_and_its_schema_alone(cached: Cached):
    long = SENTENCE * 100
    asks_for_json = {"response_format": {"type": "json_object"}}
    assert await cached(long) == 0
    assert await cached(long, model="gpt-4.1-mini") == 0
    assert await cached(f"{long} As json.", **asks_for_json) == 0
    assert await cached(f"{long} As json.", **asks_for_json) == 1408
    assert [await cached(long, model="gpt-4-turbo") for _ in range(2)] == [0, 0]


async def test_a_local_server_has_no_such_cache(local_client: openai.AsyncOpenAI):
    for _ in range(2):
        completion = await local_client.chat.completions.create(model="llama", messages=prompt(SENTENCE * 100))
        assert completion.usage is not None and completion.usage.prompt_tokens_details is not None
        assert completion.usage.prompt_tokens_details.cached_tokens == 0


async def test_a_stream_counts_them_too(openai_client: openai.AsyncOpenAI, cached: Cached):
    await cached(SENTENCE * 100)
    events = await openai_client.chat.completions.create(
        model="gpt-4o-mini",
        messages=prompt(SENTENCE * 100),
        stream=True,
        stream_options={"include_usage": True},
    )
    usages = [event.usage async for event in events if event.usage]
    assert [usage.prompt_tokens_details.cached_tokens for usage in usages if usage.prompt_tokens_details] == [1408]
