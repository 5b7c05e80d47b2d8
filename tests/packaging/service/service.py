"""A service that has Parley analyse a session. Its own packages have the names of Parley's folders."""

import asyncio
import json
import sys
from pathlib import Path

from parley import Client
from parley.process import leave

import activities
import domain
import settings
import starter
import workflows


async def main(session: Path) -> None:
    async with await Client.connect(workspace_id=settings.WORKSPACE) as client:
        job = await client.analyze(json.loads(session.read_text(encoding="utf-8")))
        report = await job.result()
    modules = (activities, domain, settings, starter, workflows)
    result = {
        "score": report.analysis.coaching.overall_score,
        "confirmed_usd": str(report.costs.confirmed_usd),
        "modules": [module.__file__ for module in modules],
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
    leave(0)  # threads of Temporal's SDK can crash an interpreter that shuts down
