"""A worker with its own workflow, which runs Parley's `Generate` as a child.

    python examples/own_worker.py "The parcel is late again."

The workflow runs on this worker, in Temporal's sandbox; the child runs on Parley's workers, on the task queue `parley`.
"""

import asyncio
import sys
from uuid import uuid4

from temporalio import workflow
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from parley import Client, GenerateInput, GenerateResult, Message, Prompt
    from parley.process import leave

WORKSPACE, TASK_QUEUE = "examples", "ticket-triage"
TEAMS = ("delivery", "billing", "other")
SCHEMA = {
    "type": "object",
    "properties": {"team": {"type": "string", "enum": list(TEAMS)}},
    "required": ["team"],
    "additionalProperties": False,
}


@workflow.defn
class TriageTicket:
    """Choose the team that a ticket is for."""

    @workflow.run
    async def run(self, ticket: str) -> str:
        prompt = Prompt(
            messages=(
                Message(role="system", content=f"Which team is this ticket for: {', '.join(TEAMS)}?"),
                Message(role="user", content=ticket),
            ),
            response_schema=SCHEMA,
        )
        result = await workflow.execute_child_workflow(
            "Generate",
            GenerateInput(workspace_id=WORKSPACE, user_id="triage", prompt=prompt, max_tokens=100),
            id=f"{workflow.info().workflow_id}/generate",  # deterministic, so that a replay finds the same child
            task_queue="parley",
            result_type=GenerateResult,
        )
        if result.refusal is not None:
            return "other"
        return result.parsed["team"]


async def main(ticket: str) -> None:
    async with await Client.connect(workspace_id=WORKSPACE) as client:
        # The client's connection has the data converter that Parley's types need.
        worker = Worker(client.temporal, task_queue=TASK_QUEUE, workflows=[TriageTicket])
        async with worker:
            team = await client.temporal.execute_workflow(
                TriageTicket.run, ticket, id=f"triage-{uuid4().hex}", task_queue=TASK_QUEUE
            )
        print(f"team: {team}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('usage: python examples/own_worker.py "The text of a ticket."')
    asyncio.run(main(sys.argv[1]))
    leave(0)  # threads of Temporal's SDK can crash an interpreter that shuts down
