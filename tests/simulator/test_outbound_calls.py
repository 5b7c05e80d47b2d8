"""Twilio's REST face of the simulator: outbound phone calls, with Twilio's SDK where it is installed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from simulator.server import Server
from simulator.twilio.line import ACCOUNT_SID
from simulator.twilio.rest import OutboundCalls
from simulator.twilio.script import parse
from starter.embedded.services import SIMULATED_ACCOUNT
from tests.simulator.phone_agent import TOKEN, Agent, connect, serving

CALLS = f"/twilio/2010-04-01/Accounts/{ACCOUNT_SID}/Calls"
NUMBERS = {"From": "+15550100002", "To": "+15550100003"}
SAYS = 'say "Hello?" at once\nhang up'


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with serving(Agent()) as agent:
        yield agent


@pytest.fixture
async def phone(server: Server) -> AsyncIterator[OutboundCalls]:
    """The phone of the simulator, which talks fast."""
    phone = server.phone
    phone.speed, phone.script = 40, parse(SAYS)
    yield phone
    phone.speed, phone.script = 1.0, parse(SAYS)


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=server.url, auth=(ACCOUNT_SID, TOKEN), timeout=10) as client:
        yield client


async def completed(http: httpx2.AsyncClient, sid: str, status: str = "completed") -> dict[str, Any]:
    """Wait until a phone call has a status, and return its resource."""
    async with asyncio.timeout(20):
        while True:
            found = (await http.get(f"{CALLS}/{sid}.json")).json()
            if found["status"] == status:
                return found
            await asyncio.sleep(0.02)


async def test_an_outbound_phone_call_asks_the_webhook_and_sends_its_statuses(
    agent: Agent, phone: OutboundCalls, http: httpx2.AsyncClient
):
    form = {**NUMBERS, "Url": f"{agent.url}/phone/voice", "StatusCallback": f"{agent.url}/phone/status"}
    events = {"StatusCallbackEvent": ["initiated", "ringing", "answered", "completed"]}
    response = await http.post(f"{CALLS}.json", data=form | events)
    assert response.status_code == 201, response.text
    made = response.json()
    assert (made["status"], made["direction"], made["to"], made["from"]) == (
        "queued",
        "outbound-api",
        "+15550100003",
        "+15550100002",
    )
    found = await completed(http, made["sid"])
    assert int(found["duration"]) > 0
    async with asyncio.timeout(10):
        while agent.form("/phone/status")["CallStatus"] != "completed":
            await asyncio.sleep(0.01)
    assert agent.unsigned == []
    statuses = [dict(form) for path, form in agent.forms if path == "/phone/status"]
    assert [(one["CallStatus"], one["SequenceNumber"]) for one in statuses] == [
        ("initiated", "0"),
        ("ringing", "1"),
        ("in-progress", "2"),
        ("completed", "3"),
    ]
    assert agent.form("/phone/voice")["Direction"] == "outbound-api"
    [setup] = agent.received("setup")
    assert (setup["direction"], setup["callSid"]) == ("outbound-api", made["sid"])
    assert [frame["voicePrompt"] for frame in agent.received("prompt")] == ["Hello?"]


async def test_twiml_may_come_with_the_request(agent: Agent, phone: OutboundCalls, http: httpx2.AsyncClient):
    agent.action = f'action="{agent.url}/phone/action"'
    made = (await http.post(f"{CALLS}.json", data={**NUMBERS, "Twiml": connect(agent)})).json()
    await completed(http, made["sid"])
    assert len(agent.received("setup")) == 1
    assert "/phone/voice" not in {path for path, _ in agent.forms}


async def test_an_update_ends_a_phone_call(agent: Agent, phone: OutboundCalls, http: httpx2.AsyncClient):
    phone.script = parse("wait 1000 s")
    made = (await http.post(f"{CALLS}.json", data={**NUMBERS, "Url": f"{agent.url}/phone/voice"})).json()
    await completed(http, made["sid"], "in-progress")
    response = await http.post(f"{CALLS}/{made['sid']}.json", data={"Status": "completed"})
    assert response.status_code == 200
    await completed(http, made["sid"])
    assert agent.form("/phone/action")["SessionStatus"] == "completed"
    response = await http.post(f"{CALLS}/{made['sid']}.json", data={"Status": "completed"})
    assert (response.status_code, response.json()["code"]) == (400, 21220)


async def test_an_update_runs_other_twiml(agent: Agent, phone: OutboundCalls, http: httpx2.AsyncClient):
    phone.script = parse("wait 1000 s")
    made = (await http.post(f"{CALLS}.json", data={**NUMBERS, "Url": f"{agent.url}/phone/voice"})).json()
    await completed(http, made["sid"], "in-progress")
    twiml = "<Response><Dial>+15550100009</Dial></Response>"
    assert (await http.post(f"{CALLS}/{made['sid']}.json", data={"Twiml": twiml})).status_code == 200
    await completed(http, made["sid"])
    events = (await http.get(f"/twilio/simulator/phone-calls/{made['sid']}")).json()
    assert [event["number"] for event in events if event["event"] == "transfer"] == ["+15550100009"]


@pytest.mark.parametrize("answer", ["busy", "no-answer"])
async def test_a_phone_that_is_not_answered(agent: Agent, phone: OutboundCalls, http: httpx2.AsyncClient, answer: str):
    assert (await http.put("/twilio/simulator/script", content=answer.replace("-", " "))).json() == {"steps": 0}
    form = {**NUMBERS, "Url": f"{agent.url}/phone/voice", "StatusCallback": f"{agent.url}/phone/status"}
    made = (await http.post(f"{CALLS}.json", data=form)).json()
    found = await completed(http, made["sid"], answer)
    assert found["duration"] is None
    assert {path for path, _ in agent.forms} <= {"/phone/status"}


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"From": "+15550100002", "Url": "https://a.example"}, 21201),
        ({"To": "+15550100002", "Url": "https://a.example"}, 21213),
        ({**NUMBERS, "To": "the reception", "Url": "https://a.example"}, 21211),
        ({**NUMBERS, "From": "15550100002", "Url": "https://a.example"}, 21212),
        (NUMBERS, 21205),
        ({**NUMBERS, "Url": "phone/voice"}, 21205),
        ({**NUMBERS, "Twiml": "<Response>"}, 12100),
        ({**NUMBERS, "Url": "https://a.example", "StatusCallbackEvent": "answer"}, 21626),
    ],
)
async def test_a_wrong_request_is_refused_in_twilios_form(http: httpx2.AsyncClient, form: dict[str, str], code: int):
    response = await http.post(f"{CALLS}.json", data=form)
    found = response.json()
    assert (response.status_code, found["status"], found["code"]) == (400, 400, code)
    assert found["more_info"] == f"https://www.twilio.com/docs/errors/{code}"
    assert found["message"]


@pytest.mark.parametrize("auth", [None, (ACCOUNT_SID, "invalid"), ("AC" + "1" * 32, TOKEN), (ACCOUNT_SID, "")])
async def test_a_request_without_the_accounts_token_is_refused(server: Server, auth: tuple[str, str] | None):
    async with httpx2.AsyncClient(base_url=server.url, auth=auth) as client:
        response = await client.post(f"{CALLS}.json", data=NUMBERS)
    assert (response.status_code, response.json()["code"]) == (401, 20003)
    assert response.headers["www-authenticate"].startswith("Basic")


async def test_an_unknown_phone_call_is_not_found(http: httpx2.AsyncClient):
    response = await http.get(f"{CALLS}/CA{'0' * 32}.json")
    assert (response.status_code, response.json()["code"]) == (404, 20404)


async def test_a_wrong_script_is_refused(http: httpx2.AsyncClient):
    response = await http.put("/twilio/simulator/script", content="whisper")
    assert response.status_code == 400
    assert "line 1: 'whisper' is not a step" in response.text


async def test_twilios_sdk_starts_reads_and_ends_a_phone_call(agent: Agent, phone: OutboundCalls, server: Server):
    rest = pytest.importorskip("twilio.rest")
    errors = pytest.importorskip("twilio.base.exceptions")
    phone.script = parse("wait 1000 s")

    def use_sdk() -> tuple[str, str]:
        client = rest.Client(ACCOUNT_SID, TOKEN)
        client.api.base_url = f"{server.url}/twilio"
        made = client.calls.create(
            to="+15550100003",
            from_="+15550100002",
            url=f"{agent.url}/phone/voice",
            status_callback=f"{agent.url}/phone/status",
            status_callback_event=["answered", "completed"],
        )
        with pytest.raises(errors.TwilioRestException) as refused:
            client.calls.create(to="the reception", from_="+15550100002", url=f"{agent.url}/phone/voice")
        assert refused.value.code == 21211
        return client.calls(made.sid).fetch().sid, client.calls(made.sid).update(status="completed").sid

    read, ended = await asyncio.to_thread(use_sdk)
    assert read == ended in phone.held


def test_the_stack_and_the_simulator_name_the_same_account():
    assert SIMULATED_ACCOUNT == ACCOUNT_SID
