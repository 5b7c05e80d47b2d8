"""The duration of each step of a generation, by its workflow's history and the traced worker."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

# The steps of a generation in order. Each begins when the one before it ends.
STEPS = (
    "client starts the workflow",
    "first workflow task reaches the worker",
    "workflow begins",
    "prepare",
    "workflow task done, paid activity scheduled",
    "paid activity reaches the worker",
    "ask begins",
    "claim",
    "lease acquired",
    "provider request, including 200 ms of the provider",
    "reply received",
    "settle",
    "result built",
    "activity done",
    "last workflow task, workflow done",
    "client has the result",
)

COUNTED = ("prepare", "claim", "settle")


async def steps_of(temporal: Client, times: Mapping[str, tuple[float, float]], spans: Path) -> dict[str, float]:
    """The medians of these generations. `times`: by workflow id, when the client started it and had its result."""
    traced = _traced(spans)
    rows = [await _marks(temporal, job, began, ended, traced[job]) for job, (began, ended) in times.items()]
    steps = {
        f"{name}, ms": median((marks[place + 1] - marks[place]) * 1000 for marks, _ in rows)
        for place, name in enumerate(STEPS)
    }
    tasks = median(tasks for _, tasks in rows)
    counted = {f"statements of {step}": median(traced[job][step]["statements"] for job in times) for step in COUNTED}
    return steps | {"workflow tasks": tasks} | counted


def _traced(spans: Path) -> dict[str, dict[str, Any]]:
    """What the worker recorded: the steps of each workflow by name."""
    found: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for line in spans.read_text(encoding="utf-8").splitlines():
        span = json.loads(line)
        found[span["workflow"]][span["step"]] = span
    return found


async def _marks(
    temporal: Client, job: str, began: float, ended: float, traced: Mapping[str, Any]
) -> tuple[list[float], float]:
    """The times at which the steps begin, with the end of the last, and the number of workflow tasks."""
    history = await temporal.get_workflow_handle(job).fetch_history()
    at: dict[int, float] = {}
    for event in history.events:
        at.setdefault(event.event_type, event.event_time.ToNanoseconds() / 1e9)
    tasks = sum(event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED for event in history.events)
    prepare, ask, claim, request, settle = (traced[step] for step in ("prepare", "ask", "claim", "call", "settle"))
    marks = [
        began,
        at[EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED],
        at[EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED],
        prepare["began"],
        prepare["ended"],
        at[EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED],
        ask["began"],
        claim["began"],
        claim["ended"],
        request["began"],
        request["ended"],
        settle["began"],
        settle["ended"],
        ask["ended"],
        at[EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED],
        at[EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED],
        ended,
    ]
    return marks, float(tasks)
