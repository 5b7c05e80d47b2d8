"""Labels each ticket of a CSV file with its topic. After a crash, run it again: paid results are reused."""

import asyncio
import csv
from pathlib import Path

from parley import Client

TOPICS = "billing, delivery, product, other"
AT_ONCE = 20


async def label(client: Client, source: Path, target: Path) -> None:
    tickets = list(csv.DictReader(source.open(encoding="utf-8")))
    turns = asyncio.Semaphore(AT_ONCE)

    async def labelled(ticket: dict[str, str]) -> dict[str, object]:
        async with turns:
            topic = await _topic(client, source.stem, ticket)
        return {"id": ticket["id"], "topic": topic, "minutes_open": int(ticket["minutes_open"])}

    rows = await asyncio.gather(*map(labelled, tickets))
    with target.open("w", encoding="utf-8", newline="") as file:
        written = csv.DictWriter(file, ["id", "topic", "minutes_open"])
        written.writeheader()
        written.writerows(rows)


async def _topic(client: Client, batch: str, ticket: dict[str, str]) -> str:
    result = await client.generate(
        f"Which of {TOPICS} is this ticket about?\n\n{ticket['text']}",
        user_id="nightly-labelling",
        action="ticket_topic",
        key=f"{batch}/{ticket['id']}",
        max_tokens=10,
        wait_limit_seconds=3600,
    )
    if result.refusal is not None:
        raise RuntimeError(result.refusal.message)
    return result.content or ""
