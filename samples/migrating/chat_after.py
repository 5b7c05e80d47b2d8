"""Answers support messages."""

from parley import Client

SYSTEM = "You answer customers of a web shop, in at most three sentences."


class Refused(Exception):
    """Nothing was asked: a cap is used up. Shown to the customer as "later, please"."""


async def reply(client: Client, user: str, message_id: int, text: str) -> str:
    result = await client.generate(
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
        user_id=user,
        action="support_reply",
        key=f"support_reply/{message_id}",
        max_tokens=300,
    )
    if result.refusal is not None:
        raise Refused(result.refusal.message)
    return result.content or ""
