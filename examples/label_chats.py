"""Label a file of chats and write the labels to a CSV file.

    python examples/label_chats.py samples/chats/support.jsonl labelled.csv

Run it again, also after a crash: the same file is the same dataset, and labels that are paid for are not paid again.
"""

import asyncio
import csv
import sys
from pathlib import Path

from parley import Client, ExportedSession
from parley.process import leave


async def main(source: Path, target: Path) -> None:
    async with await Client.connect(workspace_id="examples") as client:
        # The whole file is imported in one transaction. A bad line raises InvalidInput, which names line and field.
        imported = await client.import_chats(source)
        print(f"{imported.sessions} sessions, {imported.tokens} tokens")

        # This returns at once. The job runs on Parley's workers and does not need this process.
        job = await client.auto_analyze(imported.dataset_id, user_id="ann")
        report = await job.result()
        for label in report.labels[:10]:
            print(f"{label.sessions:5} {label.kind}: {label.label}")
        print(f"cost: ${report.costs.confirmed_usd}, at most ${report.costs.uncertain_usd} more for lost replies")

        with target.open("w", encoding="utf-8", newline="") as file:
            rows = csv.DictWriter(file, list(ExportedSession.model_fields))
            rows.writeheader()
            async for session in client.labelled_sessions(job.id):
                rows.writerow(session.model_dump(mode="json"))
        print(f"wrote {target}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
    leave(0)  # threads of Temporal's SDK can crash an interpreter that shuts down
