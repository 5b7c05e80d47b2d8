"""The duration of each step of a `Generate`, from the times of its history and of the traced worker."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

# The steps between consecutive marks, in order.
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

Times = list[float]


async def steps_of(temporal: Client, called: Mapping[str, tuple[float, float]], spans: Path) -> dict[str, float]:
    """Medians over these workflows. `called`: when the client started each, and when it had the result."""
    traced = _traced(spans)
    rows = [await _marks(temporal, job, *times, traced[job]) for job, times in called.items()]
    steps = {
        f"{name}, ms": median((marks[place + 1] - marks[place]) * 1000 for marks, _ in rows)
        for place, name in enumerate(STEPS)
    }
    tasks = median(tasks for _, tasks in rows)
    counted = {f"statements of {step}": median(traced[job][step]["statements"] for job in called) for step in COUNTED}
    return steps | {"workflow tasks": tasks} | counted


def _traced(spans: Path) -> dict[str, dict[str, Any]]:
    """The steps of each workflow."""
    found: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for line in spans.read_text(encoding="utf-8").splitlines():
        span = json.loads(line)
        found[span["workflow"]][span["step"]] = span
    return found


async def _marks(
    temporal: Client, job: str, began: float, ended: float, traced: Mapping[str, Any]
) -> tuple[Times, float]:
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
