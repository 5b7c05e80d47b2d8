"""Labels each ticket of a CSV file with its topic."""

import csv
from pathlib import Path

from openai import OpenAI

TOPICS = "billing, delivery, product, other"


def label(source: Path, target: Path) -> None:
    vendor = OpenAI()
    rows = []
    for ticket in csv.DictReader(source.open(encoding="utf-8")):
        minutes = int(ticket["minutes_open"])
        answer = vendor.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": f"Which of {TOPICS} is this ticket about?\n\n{ticket['text']}"}],
            max_completion_tokens=10,
        )
        rows.append({"id": ticket["id"], "topic": answer.choices[0].message.content, "minutes_open": minutes})
    with target.open("w", encoding="utf-8", newline="") as file:
        written = csv.DictWriter(file, ["id", "topic", "minutes_open"])
        written.writeheader()
        written.writerows(rows)
