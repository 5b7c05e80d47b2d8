"""The service's activities."""

from temporalio import activity


@activity.defn
async def sign(text: str) -> str:
    return f"{text}\n-- Acme"
