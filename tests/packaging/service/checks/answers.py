"""The service's tests. They use the fixtures of `parley.testing`."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import workflows
from parley import Client
from parley.testing import SimulatorAdmin
from temporalio.testing import TimeSkipper
from temporalio.worker import Worker


async def test_an_answer(parley_client: Client, parley_simulator: SimulatorAdmin):
    answer = await parley_client.generate("Which plan has SSO?", user_id="ann")
    assert answer.success
    assert len(await parley_simulator.billed()) == 1


async def test_another_provider_answers_after_a_fault(parley_client: Client, parley_simulator: SimulatorAdmin):
    await parley_client.set_tier("ann", "pro")  # the free tier has one route
    first = (await parley_client.generate("Which plan has SSO?", user_id="ann")).meta.provider
    await parley_simulator.fault("auth", provider=first, times=None)
    assert (await parley_client.generate("Which plan has SAML?", user_id="ann")).meta.provider != first
    assert len(await parley_simulator.billed()) == 2


async def test_a_gate_holds_the_answer_back(parley_client: Client, parley_simulator: SimulatorAdmin):
    await parley_simulator.gate(closed=True, provider="openai")
    asked = asyncio.create_task(parley_client.generate("Which plan has SSO?", user_id="ann", provider="openai"))
    await parley_simulator.requests(at_least=1)
    assert not asked.done()
    await parley_simulator.gate(closed=False, provider="openai")
    assert (await asked).success


async def test_clients_without_arguments_use_the_stack(parley_client: Client):
    async with await Client.connect(workspace_id=parley_client.workspace_id) as client:
        await client.generate("Which plan has SSO?", user_id="ann")
    assert (await parley_client.costs()).confirmed_usd > 0


async def test_a_month_passes_in_a_moment(parley_client: Client, parley_time_skipper: TimeSkipper):
    queue = f"reminders-{uuid4().hex[:8]}"
    async with Worker(parley_client.temporal, task_queue=queue, workflows=[workflows.Reminder]):
        reminder = await parley_time_skipper.client.start_workflow(
            workflows.Reminder.run, parley_client.workspace_id, id=f"reminder-{uuid4().hex}", task_queue=queue
        )
        assert (await reminder.result()).success
        passed = await parley_time_skipper.get_current_time(reminder) - (await reminder.describe()).start_time
    assert passed >= timedelta(days=30)
