"""Representative runs of `PhoneCall`."""

from parley import CachePolicy, Client
from parley.client.backend import start_workflow
from parley.client.phone import PhoneTalk, new_call, phone_call_start
from parley.domain.phone.contract import CONNECTED, ENDED, STATE, CallEnd, Moment, PhoneCallState, turn_id, workflow_id
from parley.storage import phone_calls
from tests.parts import SimulatorAdmin

NUMBER, CALLER, SID = "+15550100002", "+15550100001", "CA1"


async def called(client: Client, *, turns: int, analysis: bool) -> str:
    number = await client.phone.set_number(NUMBER, {"analysis": analysis})
    call = new_call(client.workspace_id, SID, number.settings, number=NUMBER, caller=CALLER)
    async with client.database.transaction() as tx:
        await phone_calls.begin(tx, call)
    backend = client._backend  # pyright: ignore[reportPrivateUsage]
    of = (client.workspace_id, SID, call.user_id)
    await start_workflow(backend, client.workspace_id, phone_call_start(*of, longest_seconds=4200))
    workflow = client.temporal.get_workflow_handle(workflow_id(client.workspace_id, SID))
    talk = PhoneTalk(backend, *of, longest_seconds=4200)
    # A query is answered after what came before it: no signal arrives within the task of another one.
    await workflow.query(STATE, result_type=PhoneCallState)
    await workflow.signal(CONNECTED, Moment(session_id="VX1"))
    await workflow.query(STATE, result_type=PhoneCallState)
    for turn in range(1, turns + 1):
        said = await talk.say(f"text {turn}", turn_id=turn_id(SID, turn), cache=CachePolicy.OFF)
        assert said.success
    await workflow.signal(ENDED, CallEnd(reason="caller"))
    await workflow.result()
    return workflow.id


async def phone_call_of_two_turns(client: Client, _: SimulatorAdmin) -> str:
    return await called(client, turns=2, analysis=False)


async def phone_call_analysed(client: Client, _: SimulatorAdmin) -> str:
    return await called(client, turns=1, analysis=True)


SCENARIOS = (phone_call_of_two_turns, phone_call_analysed)
