"""What a history says of the version of the worker."""

import pytest
from temporalio.api.enums.v1 import EventType

from parley import Client
from parley.domain.generate.contract import workflow_id
from worker import build_id


@pytest.mark.usefixtures("worker")
async def test_the_steps_of_a_workflow_name_the_sources_of_their_worker(client: Client) -> None:
    await client.generate("Which plan has SSO?", user_id="ann", key="k")
    handle = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, "k"))
    done = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    steps = [event for event in (await handle.fetch_history()).events if event.event_type == done]
    versions = {event.workflow_task_completed_event_attributes.worker_version.build_id for event in steps}
    assert versions == {build_id()}
