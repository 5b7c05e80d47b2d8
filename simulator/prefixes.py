"""The vendors' prompt caches: what a prompt has in common with the beginning of an earlier one costs less.

Anthropic caches up to a block that the request marks, OpenAI caches every long prompt:
https://platform.claude.com/docs/en/build-with-claude/prompt-caching
https://platform.openai.com/docs/guides/prompt-caching
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from simulator.schema_rules import openai_supports_schemas
from simulator.wire import BYTES_PER_TOKEN, Prompt, content_text, count_tokens

LEAST_TOKENS = 1024
# How many earlier messages are compared with what is cached, and how many prefixes are kept.
LOOKED_BACK, MOST_KEPT = 20, 100_000
# OpenAI caches in steps of so many tokens.
STEP_TOKENS = 128


class Prefixes:
    """The cached prefixes of all prompts. They do not expire."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}

    def reset(self) -> None:
        """Forget all."""
        self._known.clear()

    def use_marked(self, body: Mapping[str, Any]) -> tuple[int, int]:
        """Anthropic: cache the prefix up to the last marked message. Returns the tokens read, and those written."""
        messages = body.get("messages") or []
        marked = [number for number, message in enumerate(messages, 1) if _is_marked(message)]
        if not marked:
            return 0, 0
        sizes = {end: _tokens(body, end) for end in range(max(marked[-1] - LOOKED_BACK, 1), marked[-1] + 1)}
        if sizes[marked[-1]] < LEAST_TOKENS:
            return 0, 0
        read = max((size for end, size in sizes.items() if _key(body, end) in self._known), default=0)
        self._keep(_key(body, marked[-1]))
        return read, sizes[marked[-1]] - read

    def use_automatic(self, prompt: Prompt) -> int:
        """OpenAI: cache the prefixes of a prompt, of a model that has a cache. Returns the tokens that were read."""
        if not openai_supports_schemas(prompt.model):  # the models without them have no cache either
            return 0
        steps = list(_steps(prompt))
        read = max((tokens for tokens, key in steps if key in self._known), default=0)
        for _, key in steps:
            self._keep(key)
        return read

    def _keep(self, key: str) -> None:
        self._known.pop(key, None)
        self._known[key] = None
        if len(self._known) > MOST_KEPT:
            del self._known[next(iter(self._known))]


def _steps(prompt: Prompt) -> Iterator[tuple[int, str]]:
    """The prefixes of a prompt that OpenAI caches: their tokens and keys. Tools and a schema precede the messages."""
    before = [prompt.model, prompt.schema, [tool.text for tool in prompt.tools]]
    running, said = hashlib.sha256(json.dumps(before).encode()), prompt.text.encode()
    size = STEP_TOKENS * BYTES_PER_TOKEN
    for number, start in enumerate(range(0, len(said) - size + 1, size), 1):
        running.update(said[start : start + size])
        if number * STEP_TOKENS >= LEAST_TOKENS:
            yield number * STEP_TOKENS, running.hexdigest()


def _is_marked(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any("cache_control" in block for block in content)


def _texts(body: Mapping[str, Any], end: int) -> list[str]:
    return [content_text(body.get("system")), *(content_text(one.get("content")) for one in body["messages"][:end])]


def _tokens(body: Mapping[str, Any], end: int) -> int:
    return count_tokens("\n".join(_texts(body, end)))


def _key(body: Mapping[str, Any], end: int) -> str:
    return hashlib.sha256(json.dumps([body.get("model"), body.get("tools"), _texts(body, end)]).encode()).hexdigest()
