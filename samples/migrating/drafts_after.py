"""Drafts sales letters."""

from parley import Client


async def draft(client: Client, user: str, facts: str, tone: str) -> str:
    result = await client.generate(
        f"Write a short sales letter in a {tone} tone. Facts: {facts}",
        user_id=user,
        action="draft",
        model="claude-haiku-4-5",
        max_tokens=400,
    )
    if result.refusal is not None:
        raise RuntimeError(result.refusal.message)
    return result.content or ""
