"""Anthropic's prompt cache: prefixes of prompts up to a marked block, which a later prompt may begin with.

https://platform.claude.com/docs/en/build-with-claude/prompt-caching
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from simulator.wire import content_text, count_tokens

LEAST_TOKENS = 1024
# How many earlier messages are compared with what is cached, and how many prefixes are kept.
LOOKED_BACK, MOST_KEPT = 20, 10_000


class Prefixes:
    """The cached prefixes of all prompts. They do not expire."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}

    def reset(self) -> None:
        """Forget all."""
        self._known.clear()

    def use(self, body: Mapping[str, Any]) -> tuple[int, int]:
        """Cache the prefix up to the last marked message. Returns the tokens that were read, and those written."""
        messages = body.get("messages") or []
        marked = [number for number, message in enumerate(messages, 1) if _is_marked(message)]
        if not marked:
            return 0, 0
        sizes = {end: _tokens(body, end) for end in range(max(marked[-1] - LOOKED_BACK, 1), marked[-1] + 1)}
        if sizes[marked[-1]] < LEAST_TOKENS:
            return 0, 0
        read = max((size for end, size in sizes.items() if _key(body, end) in self._known), default=0)
        self._known[_key(body, marked[-1])] = None
        if len(self._known) > MOST_KEPT:
            del self._known[next(iter(self._known))]
        return read, sizes[marked[-1]] - read


def _is_marked(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any("cache_control" in block for block in content)


def _texts(body: Mapping[str, Any], end: int) -> list[str]:
    return [content_text(body.get("system")), *(content_text(one.get("content")) for one in body["messages"][:end])]


def _tokens(body: Mapping[str, Any], end: int) -> int:
    return count_tokens("\n".join(_texts(body, end)))


def _key(body: Mapping[str, Any], end: int) -> str:
    return hashlib.sha256(json.dumps([body.get("model"), body.get("tools"), _texts(body, end)]).encode()).hexdigest()
