"""The service's worker, which also starts its workflow and prints the result."""

import asyncio
import os
import sys

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

import activities
import settings
import workflows
from parley.connection import leave


async def main(workflow_id: str) -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"], data_converter=pydantic_data_converter)
    async with Worker(
        client, task_queue=settings.TASK_QUEUE, workflows=[workflows.SignedAnswer], activities=[activities.sign]
    ):
        result = await client.execute_workflow(
            workflows.SignedAnswer.run, "ann", id=workflow_id, task_queue=settings.TASK_QUEUE
        )
    sys.stdout.write(result.model_dump_json())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
    leave(0)  # threads of Temporal's SDK can crash an interpreter that shuts down
