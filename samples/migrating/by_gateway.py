"""Three engines that keep their SDK and call a gateway: only the address and the key change."""

import os

from anthropic import Anthropic
from openai import OpenAI

ADDRESS, KEY = os.environ.get("PARLEY_ADDRESS", "http://127.0.0.1:8700"), os.environ.get("PARLEY_KEY", "none")


def reply(user: str, message_id: int, text: str) -> str | None:
    """Was: OpenAI's SDK with a loop that repeats. The key makes a repetition free, also after a crash."""
    vendor = OpenAI(base_url=f"{ADDRESS}/v1", api_key=KEY)
    answer = vendor.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": text}],
        user=user,
        max_completion_tokens=300,
        extra_headers={"Idempotency-Key": f"support_reply:{message_id}", "x-parley-action": "support_reply"},
    )
    return answer.choices[0].message.content


def draft(user: str, facts: str) -> str:
    """Was: Anthropic's SDK, and OpenAI's in an `except`. The policy's next route is the fallback."""
    vendor = Anthropic(base_url=ADDRESS, api_key=KEY)
    with vendor.messages.stream(
        model="claude-haiku-4-5",
        max_tokens=300,
        messages=[{"role": "user", "content": f"Describe this product: {facts}"}],
        metadata={"user_id": user},
        extra_headers={"x-parley-action": "draft"},
    ) as stream:
        return "".join(stream.text_stream)


def topic(ticket: str) -> tuple[str | None, str]:
    """Was: OpenAI's SDK on LiteLLM's proxy. `x-litellm-response-cost` is `x-parley-cost-usd`."""
    vendor = OpenAI(base_url=f"{ADDRESS}/v1", api_key=KEY)
    raw = vendor.chat.completions.with_raw_response.create(
        model="parley/auto",
        messages=[{"role": "user", "content": f"What is this ticket about? {ticket}"}],
        extra_headers={"x-parley-action": "ticket_topic", "x-parley-user": "nightly-labelling"},
    )
    return raw.parse().choices[0].message.content, raw.headers["x-parley-cost-usd"]
