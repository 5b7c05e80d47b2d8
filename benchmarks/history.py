"""Whether every history stays short in a large run, and the throughput when replies take no time.

20,000 short sessions are labelled by 8 streams, once with as many sessions as fit one request and once with 4 sessions
per stream and round. The history of each parent run and each stream run must stay below 10,000 events.
"""

import asyncio
from collections.abc import Sequence

from temporalio.client import WorkflowExecution, WorkflowExecutionStatus

from benchmarks.chats import write_chats
from benchmarks.options import Figures, Options
from benchmarks.stack import Run, running, say
from parley.domain.auto_analyze.contract import STREAM_WORKFLOW, WORKFLOW

SESSIONS, STREAMS = 20_000, 8
SESSIONS_PER_STREAM = {"all that fit": None, "4": 4}
TIMEOUT_SECONDS = 1800
MAX_EVENTS = 10_000


async def measure(options: Options) -> Figures:
    figures: Figures = {}
    async with running() as bench:
        path = write_chats(bench.directory / "chats.jsonl", options.sessions or SESSIONS)
        for name in options.sessions_per_stream or SESSIONS_PER_STREAM:
            run = await bench.label(
                path, within=TIMEOUT_SECONDS, streams=STREAMS, sessions_per_stream=SESSIONS_PER_STREAM[name]
            )
            figures[f"sessions per stream: {name}"] = await _figures(run)
    return figures


async def _figures(run: Run) -> dict[str, float]:
    executions = await _executions(run)
    parents = [execution for execution in executions if execution.workflow_type == WORKFLOW]
    streams = [execution for execution in executions if execution.workflow_type == STREAM_WORKFLOW]
    parent, stream = await _longest(run, parents), await _longest(run, streams)
    return {
        "seconds": run.seconds,
        "import seconds": run.import_seconds,
        "sessions a second": run.statistics.sessions / run.seconds,
        "rounds": run.statistics.rounds,
        "discovery seconds": run.phases.discovery[-1].ended - run.phases.discovery[0].received,
        "phase 2 seconds": run.phases.parallel_wall,
        "parent runs": len(parents),
        "stream runs": len(streams),
        "events of the longest parent run": parent,
        "events of the longest stream run": stream,
        f"every history under {MAX_EVENTS:,} events": max(parent, stream) < MAX_EVENTS,
    }


async def _executions(run: Run) -> list[WorkflowExecution]:
    """Wait until the server lists every run of the job and its streams as closed, and return the runs."""
    query = f"WorkflowId STARTS_WITH '{run.job.id}'"
    async with asyncio.timeout(60):
        while True:
            found = [execution async for execution in run.client.temporal.list_workflows(query)]
            if found and all(execution.status != WorkflowExecutionStatus.RUNNING for execution in found):
                return found
            await asyncio.sleep(0.5)


async def _longest(run: Run, executions: Sequence[WorkflowExecution]) -> int:
    """The number of events of the longest history, counted in the history, since the list can be behind."""
    if not executions:
        return 0
    longest = max(executions, key=lambda execution: execution.history_length)
    history = await run.client.temporal.get_workflow_handle(longest.id, run_id=longest.run_id).fetch_history()
    say(f"{longest.workflow_type}: {len(history.events)} events ({longest.history_length} in the list)")
    return len(history.events)
