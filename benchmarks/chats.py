"""Short generated chat sessions on 24 topics, the same for each run."""

import json
from pathlib import Path
from typing import Any

TOPICS = (
    "my invoice is wrong", "I forgot my password", "where is my parcel", "I want to cancel my contract",
    "the internet is down", "I would like to change my address", "my refund has not arrived",
    "how do I upgrade my plan", "the app crashes when I open it", "I want to book an appointment",
    "my card was declined", "please close my account", "I need a copy of my invoice",
    "the delivery came damaged", "can I change my order", "what are your opening hours",
    "I was charged twice", "my SIM card does not work", "how do I return an item",
    "the discount code is not accepted", "I want to speak to a person", "my router keeps restarting",
    "I cannot log in to my account", "when does my contract end",
)  # fmt: skip
CONTAINMENTS = ("selfService", "agent", "dropOff")


def write_chats(path: Path, count: int) -> Path:
    """Write `count` sessions as JSONL."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(_chat(number)) + "\n" for number in range(count))
    return path


def _chat(number: int) -> dict[str, Any]:
    topic = TOPICS[number * 7 % len(TOPICS)]
    return {
        "session_id": f"s-{number:06}",
        "user_id": f"u-{number % 997}",
        "bot_id": "bench",
        "containment": CONTAINMENTS[number // len(TOPICS) % len(CONTAINMENTS)],
        "messages": [
            {"role": "user", "text": f"Hello, {topic}, it is about number {number}."},
            {"role": "bot", "text": "Let me have a look at that for you."},
            {"role": "user", "text": "Thank you, I will wait."},
        ],
    }
