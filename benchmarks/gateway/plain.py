"""A simple script for comparison: it sends requests with the SDK and inserts one row for each reply.

`python -m benchmarks.gateway.plain SIMULATOR DATABASE REQUESTS CONCURRENCY` sends the requests that have no row yet.
"""

import asyncio
import sys
from decimal import Decimal

import openai
import psycopg

from benchmarks.gateway.prompt import MAX_TOKENS, MESSAGES, MODEL

TABLE = "CREATE TABLE IF NOT EXISTS plain_usage (key text PRIMARY KEY, tokens int, cost_usd numeric(18, 6))"
# Between the prices of an input and an output token, which a simple script does not distinguish.
USD_PER_TOKEN = Decimal("0.000000375")


class Script:
    def __init__(self, sdk: openai.AsyncOpenAI, connection: psycopg.AsyncConnection) -> None:
        self._sdk, self._connection = sdk, connection

    async def answer(self, key: str) -> None:
        reply = await self._sdk.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_completion_tokens=MAX_TOKENS
        )
        assert reply.usage
        tokens = reply.usage.total_tokens
        row = (key, tokens, tokens * USD_PER_TOKEN)
        await self._connection.execute("INSERT INTO plain_usage VALUES (%s, %s, %s)", row)


async def main(simulator: str, database: str, requests: int, concurrency: int) -> None:
    sdk = openai.AsyncOpenAI(api_key="none", base_url=f"{simulator}/openai/v1", max_retries=0)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(TABLE)
        stored = {key for (key,) in await (await connection.execute("SELECT key FROM plain_usage")).fetchall()}
        script = Script(sdk, connection)
        remaining = iter([key for key in map(str, range(requests)) if key not in stored])

        async def caller() -> None:
            for key in remaining:
                await script.answer(key)

        await asyncio.gather(*(caller() for _ in range(concurrency)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
