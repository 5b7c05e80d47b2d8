"""The request that every gateway sends."""

from typing import Any

MODEL = "gpt-4o-mini"
QUESTION = "Which plan suits a small bakery with two shops and one van?"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
MAX_TOKENS = 200
