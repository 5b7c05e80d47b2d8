"""Answers support messages."""

from parley import Client

SYSTEM = "You answer customers of a web shop, in at most three sentences."


class Refused(Exception):
    """A cap is used up, so no provider was called. The customer sees "please try again later"."""


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
