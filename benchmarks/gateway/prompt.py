"""The request that every system sends."""

from typing import Any

MODEL = "gpt-4o-mini"
PROMPT = "Which plan suits a small bakery with two shops and one van?"
MESSAGES: list[Any] = [{"role": "user", "content": PROMPT}]
MAX_TOKENS = 200
