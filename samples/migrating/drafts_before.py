"""Drafts sales letters with Anthropic, with OpenAI as a fallback, and with a cache such as a Redis client."""

import hashlib
import logging
from typing import Protocol

from anthropic import Anthropic, APIError
from openai import OpenAI

log = logging.getLogger(__name__)


class Cache(Protocol):
    def get(self, key: str, /) -> bytes | None: ...
    def setex(self, key: str, seconds: int, value: bytes, /) -> object: ...


def draft(cache: Cache, facts: str, tone: str) -> str:
    key = "draft:" + hashlib.sha256(facts.encode()).hexdigest()
    stored = cache.get(key)
    if stored is not None:
        return stored.decode()
    prompt = f"Write a short sales letter in a {tone} tone. Facts: {facts}"
    try:
        text = _anthropic(prompt)
    except APIError as error:
        log.warning("falling back to OpenAI: %s", error)
        text = _openai(prompt)
    cache.setex(key, 86400, text.encode())
    return text


def _anthropic(prompt: str) -> str:
    vendor = Anthropic(max_retries=0)
    message = vendor.messages.create(
        model="claude-haiku-4-5", max_tokens=400, messages=[{"role": "user", "content": prompt}]
    )
    return message.content[0].text


def _openai(prompt: str) -> str:
    vendor = OpenAI(max_retries=0)
    answer = vendor.chat.completions.create(
        model="gpt-4o-mini", max_completion_tokens=400, messages=[{"role": "user", "content": prompt}]
    )
    return answer.choices[0].message.content or ""
