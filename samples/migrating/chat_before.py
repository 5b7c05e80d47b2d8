"""Answers support messages. It retries and records costs itself."""

import sqlite3
import time

from openai import APIConnectionError, InternalServerError, OpenAI, RateLimitError

MODEL = "gpt-4o-mini"
PRICES = {"gpt-4o-mini": (0.15, 0.60), "gpt-4o": (2.50, 10.00)}  # dollars per million tokens, in and out
COSTS = "CREATE TABLE IF NOT EXISTS ai_costs (workspace, user, feature, model, tokens_in, tokens_out, usd)"
SYSTEM = "You answer customers of a web shop, in at most three sentences."
TRIES = 4


def reply(costs: sqlite3.Connection, workspace: str, user: str, text: str, timeout: float = 30) -> str:
    vendor = OpenAI(timeout=timeout, max_retries=0)
    for attempt in range(TRIES):
        try:
            answer = vendor.chat.completions.create(
                model=MODEL,
                messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
                max_completion_tokens=300,
            )
            break
        except (APIConnectionError, RateLimitError, InternalServerError):
            if attempt == TRIES - 1:
                raise
            time.sleep(2**attempt)
    tokens_in, tokens_out = answer.usage.prompt_tokens, answer.usage.completion_tokens
    usd = (tokens_in * PRICES[MODEL][0] + tokens_out * PRICES[MODEL][1]) / 1_000_000
    row = (workspace, user, "support_reply", MODEL, tokens_in, tokens_out, usd)
    costs.execute("INSERT INTO ai_costs VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    costs.commit()
    return answer.choices[0].message.content
