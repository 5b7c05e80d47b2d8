"""Generate an answer within a daily cap, once per idempotency key.

python examples/generate_with_budget.py
"""

import asyncio
from decimal import Decimal
from uuid import uuid4

from parley import Client, GenerateResult, Period
from parley.process import leave


async def main() -> None:
    async with await Client.connect(workspace_id="examples-budget") as client:
        # No request of this workspace starts if its upper bound may exceed the cap.
        await client.set_cap(Period.DAY, Decimal("20"))

        # The key names the request, for example by a message's id. A retry returns the first answer and costs nothing.
        key = f"ticket-{uuid4().hex}"
        for _ in range(2):
            result = await client.generate("Which plan has SSO?", user_id="ann", key=key, max_tokens=300)
            print(show(result))

        # A refusal is a result, not an exception: the caller decides what to do without an answer.
        await client.set_cap(Period.DAY, Decimal(0))
        print(show(await client.generate("Which plan has an audit log?", user_id="ann")))
        await client.set_cap(Period.DAY, None)

        print(f"this workspace has spent ${(await client.costs()).confirmed_usd}")


def show(result: GenerateResult) -> str:
    if result.refusal is not None:
        return f"refused: {result.refusal.code}: {result.refusal.message}"
    return f"{result.meta.model}, ${result.meta.cost_usd}, request {result.meta.request_id}: {result.content}"


if __name__ == "__main__":
    asyncio.run(main())
    leave(0)  # threads of Temporal's SDK can crash an interpreter that shuts down
