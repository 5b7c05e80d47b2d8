"""Parley's worker that records the times of each step of a generation, and runs two minimal workflows.

`benchmarks.generate` starts it in place of the worker. It writes the steps to the file named by BENCH_SPANS, one JSON
object per line.
"""

import functools
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine
from temporalio import activity, workflow
from temporalio.worker import Worker

import worker
from activities.configuration import Configurations
from activities.generate.deciding import GenerateDecisions
from activities.generate.paid_steps import GeneratePaidSteps
from activities.paid_call import PaidCalls
from parley.connection import leave

QUEUE = "bench-lower-bound"
ACTIVITY_TIMEOUT = timedelta(seconds=10)


@activity.defn
async def nothing() -> None: ...


@workflow.defn(sandboxed=False)
class OneLocalActivity:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_local_activity(nothing, start_to_close_timeout=ACTIVITY_TIMEOUT)


@workflow.defn(sandboxed=False)
class OneActivity:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(nothing, start_to_close_timeout=ACTIVITY_TIMEOUT)


class Spans:
    """Records the start and end of each step by workflow, by the clock that the Temporal server uses too."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._statements = Counter[str]()

    def record(self, owner: Any, name: str, step: str) -> None:
        """Replace a method of `owner` by one that also records when it began and ended, as `step`."""
        inner: Callable[..., Awaitable[Any]] = getattr(owner, name)

        @functools.wraps(inner)
        async def timed(*args: Any, **kwargs: Any) -> Any:
            workflow_id = activity.info().workflow_id or ""
            began, before = time.time(), self._statements[workflow_id]
            try:
                return await inner(*args, **kwargs)
            finally:
                statements = self._statements[workflow_id] - before
                span = {"workflow": workflow_id, "step": step, "began": began, "ended": time.time()}
                self._file.write(json.dumps({**span, "statements": statements}) + "\n")

        setattr(owner, name, timed)

    def count_statement(self, *_: Any) -> None:
        if activity.in_activity():
            self._statements[activity.info().workflow_id or ""] += 1


def main() -> int:
    spans = Spans(Path(os.environ["BENCH_SPANS"]))
    steps = (
        (Configurations, "_load", "configuration"),
        (GenerateDecisions, "prepare", "prepare"),
        (GeneratePaidSteps, "ask", "ask"),
        (PaidCalls, "_claim", "claim"),
        (PaidCalls, "_call", "call"),
        (PaidCalls, "_settle", "settle"),
    )
    for owner, name, step in steps:
        spans.record(owner, name, step)
    event.listen(Engine, "before_cursor_execute", spans.count_statement)
    worker.build_workers = _with_minimal_workflows(worker.build_workers)
    return worker.main([])


def _with_minimal_workflows(build: Callable[..., list[Worker]]) -> Callable[..., list[Worker]]:
    def build_workers(client: Any, *args: Any) -> list[Worker]:
        minimal = Worker(client, task_queue=QUEUE, workflows=[OneLocalActivity, OneActivity], activities=[nothing])
        return [*build(client, *args), minimal]

    return build_workers


if __name__ == "__main__":
    leave(main())
