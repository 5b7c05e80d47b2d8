"""The vendors' prompt caches: what a prompt has in common with the beginning of an earlier one costs less.

Anthropic caches up to a block that the request marks, OpenAI caches every long prompt:
https://platform.claude.com/docs/en/build-with-claude/prompt-caching
https://platform.openai.com/docs/guides/prompt-caching
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from simulator.schema_rules import openai_supports_schemas
from simulator.wire import BYTES_PER_TOKEN, Prompt, content_text, count_tokens

LEAST_TOKENS = 1024
# How many earlier blocks are compared with what is cached, and how many prefixes are kept.
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
        """Anthropic: cache the prefix up to the last marked block. Returns the tokens read, and those written."""
        blocks = _blocks(body)
        marked = [number for number, block in enumerate(blocks, 1) if block.is_marked]
        if not marked:
            return 0, 0
        ends = range(max(marked[-1] - LOOKED_BACK, 1), marked[-1] + 1)
        sizes = {end: _tokens(body, blocks[:end]) for end in ends}
        if sizes[marked[-1]] < LEAST_TOKENS:
            return 0, 0
        read = max((size for end, size in sizes.items() if _key(body, blocks[:end]) in self._known), default=0)
        self._keep(_key(body, blocks[: marked[-1]]))
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


class _Block(NamedTuple):
    """A block of a message. `is_marked`: the prefix is cached up to here."""

    text: str
    is_marked: bool


def _blocks(body: Mapping[str, Any]) -> list[_Block]:
    """The blocks of the messages, in order. A content that is a text is one block."""
    found: list[_Block] = []
    for message in body.get("messages") or []:
        content = message.get("content")
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        found += [_Block(content_text([one]), "cache_control" in one) for one in blocks if isinstance(one, dict)]
    return found


def _texts(body: Mapping[str, Any], blocks: Sequence[_Block]) -> list[str]:
    return [content_text(body.get("system")), *(block.text for block in blocks)]


def _tokens(body: Mapping[str, Any], blocks: Sequence[_Block]) -> int:
    return count_tokens("\n".join(_texts(body, blocks)))


def _key(body: Mapping[str, Any], blocks: Sequence[_Block]) -> str:
    given = [body.get("model"), body.get("tools"), _texts(body, blocks)]
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()
