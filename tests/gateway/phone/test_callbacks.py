"""What Twilio requests: signatures, the TwiML, callbacks in any order, limits, and lost sessions."""

import asyncio
import itertools
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from parley import Backend, Client, Settings
from parley.domain.phone.contract import workflow_id
from parley.domain.phone.heard import CHARACTERS_PER_SECOND
from parley.domain.phone.signature import HEADER, SETTINGS_HEADER, signature
from parley.domain.phone.twiml import ATTRIBUTES
from parley.testing import SimulatorAdmin
from tests.gateway.parts import Running, running_gateway
from tests.gateway.phone.twilio import CALLER, FORM, NUMBER, TOKEN, Phone, Twilio
from tests.parts import run_sql

pytestmark = pytest.mark.usefixtures("client")


async def test_a_webhook_without_the_right_signature_is_refused(gateway: Running, twilio: Twilio):
    fields = twilio.phone().form()
    right = signature(TOKEN, f"{gateway.url}/phone/voice", fields.items())
    async with gateway.http() as http:
        for path in ("/phone/voice", "/phone/action", "/phone/status"):
            for given in (None, "", "x", right.swapcase(), signature("other", f"{gateway.url}{path}", fields.items())):
                headers = {} if given is None else {HEADER: given}
                refused = await http.post(path, data=fields, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (403, "NotSigned")
        assert (await http.post("/phone/voice", data=fields, headers={HEADER: right})).status_code == 200
        assert (await http.post("/phone/action", data=fields, headers={HEADER: right})).status_code == 403
        changed = {**fields, "To": "+15550100009"}
        assert (await http.post("/phone/voice", data=changed, headers={HEADER: right})).status_code == 403
        assert (await http.post("/phone/voice", json=fields, headers={HEADER: right})).status_code == 415


@pytest.mark.parametrize("path", ["/phone/voice", "/phone/action", "/phone/status"])
async def test_a_form_with_more_fields_than_twilio_sends_is_refused(
    path: str, gateway: Running, twilio: Twilio, caplog: pytest.LogCaptureFixture
):
    many = {f"Field{number}": "x" for number in range(501)}
    async with gateway.http() as http:
        unsigned = await http.post(path, data=many)
    for refused in (unsigned, await twilio.post(path, many)):
        assert (refused.status_code, refused.json()["code"]) == (403, "NotSigned")
    assert "no handler expected" not in caplog.text


async def test_what_names_no_address_is_not_signed(backend: Backend, settings: Settings, client: Client):
    """A proxy passes on what its caller says."""
    changes = {"gateway_trusted_proxies": "127.0.0.1", "gateway_trusted_hosts": "*"}
    trusting = Backend(backend.temporal, backend.database, settings.model_copy(update=changes))
    async with running_gateway(trusting, trusting.settings) as running, running.http() as http:
        fields = Twilio(running).phone().form()
        refused = await http.post("/phone/voice", data=fields, headers={"x-forwarded-host": "[", HEADER: "x"})
    assert (refused.status_code, refused.json()["code"]) == (403, "NotSigned")


async def test_a_repeated_field_counts_with_each_of_its_values(gateway: Running, twilio: Twilio):
    body = "CallSid=CA1&From=%2B15550100001&To=%2B15550100002&Extra=b&Extra=a&CallStatus=ringing"
    fields = [
        ("CallSid", "CA1"), ("From", CALLER), ("To", NUMBER), ("Extra", "b"), ("Extra", "a"), ("CallStatus", "ringing")
    ]  # fmt: skip
    headers = {HEADER: signature(TOKEN, f"{gateway.url}/phone/voice", fields), "content-type": FORM}
    async with gateway.http() as http:
        assert (await http.post("/phone/voice", content=body, headers=headers)).status_code == 200
        headers[HEADER] = signature(TOKEN, f"{gateway.url}/phone/voice", dict(fields).items())
        assert (await http.post("/phone/voice", content=body, headers=headers)).status_code == 403


async def test_the_header_selects_sha_256(gateway: Running, twilio: Twilio):
    fields, url = twilio.phone().form(), f"{gateway.url}/phone/voice"
    for algorithm, selected, status in (
        ("HMAC_SHA256", "key=CR1,algorithm=HMAC_SHA256", 200),
        ("HMAC_SHA1", "key=CR1,algorithm=HMAC_SHA256", 403),
        ("HMAC_SHA1", "key=CR1,algorithm=HMAC_MD5", 403),
    ):
        headers = {HEADER: signature(TOKEN, url, fields.items(), algorithm), SETTINGS_HEADER: selected}
        async with gateway.http() as http:
            assert (await http.post("/phone/voice", data=fields, headers=headers)).status_code == status


async def test_a_socket_without_the_right_signature_is_refused(gateway: Running):
    url = f"{gateway.url.replace('http', 'ws')}/phone/relay"
    for headers in ({}, {HEADER: "x"}, {HEADER: signature(TOKEN, f"{gateway.url}/phone/relay")}):
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, additional_headers=headers)
        assert refused.value.response.status_code == 403
    async with connect(url, additional_headers={HEADER: signature(TOKEN, url)}):
        pass


async def test_without_an_auth_token_no_phone_call_is_taken(backend: Backend, settings: Settings):
    open_door = Backend(backend.temporal, backend.database, settings.model_copy(update={"twilio_auth_token": None}))
    async with running_gateway(open_door, open_door.settings) as running:
        for token in ("", TOKEN):
            refused = await Twilio(running, token).post("/phone/voice", {"CallSid": "CA1", "To": NUMBER})
            assert (refused.status_code, refused.json()["code"]) == (403, "NotSigned")


async def test_the_public_address_is_that_of_a_trusted_proxy(backend: Backend, settings: Settings, client: Client):
    changes = {"gateway_trusted_proxies": "127.0.0.1", "gateway_trusted_hosts": "*"}
    trusting = Backend(backend.temporal, backend.database, settings.model_copy(update=changes))
    async with running_gateway(trusting, trusting.settings) as running:
        fields = Twilio(running).phone().form()
        proxy = {"x-forwarded-proto": "https", "x-forwarded-host": "voice.example.com"}
        public = signature(TOKEN, "https://voice.example.com/phone/voice", fields.items())
        async with running.http() as http:
            answer = await http.post("/phone/voice", data=fields, headers={**proxy, HEADER: public})
            assert answer.status_code == 200, answer.text
            assert 'url="wss://voice.example.com/phone/relay"' in answer.text
            assert 'action="https://voice.example.com/phone/action"' in answer.text


async def test_the_public_address_is_the_operators(backend: Backend, settings: Settings, client: Client):
    named = settings.model_copy(update={"phone_public_url": "https://phone.example.com"})
    async with running_gateway(Backend(backend.temporal, backend.database, named), named) as running:
        fields = Twilio(running).phone().form()
        for url in ("https://phone.example.com/phone/voice?a=1", "https://phone.example.com:443/phone/voice?a=1"):
            headers = {HEADER: signature(TOKEN, url, fields.items()), "x-forwarded-host": "evil.example.com"}
            async with running.http() as http:
                answer = await http.post("/phone/voice?a=1", data=fields, headers=headers)
                assert answer.status_code == 200, answer.text
                assert 'url="wss://phone.example.com/phone/relay"' in answer.text


async def test_the_twiml_has_the_settings_of_the_number(client: Client, twilio: Twilio):
    settings: dict[str, Any] = {
        "language": "en-GB",
        "voice": "amelia",
        "tts_provider": "ElevenLabs",
        "transcription_provider": "Deepgram",
        "speech_model": "nova-3-general",
        "hints": ["Parley", "a & b"],
        "welcome_greeting": "Good <day> & welcome!",
        "welcome_interruptible": "none",
        "interruptible": "speech",
        "dtmf_detection": True,
        "partial_prompts": False,
        "languages": [{"code": "es-ES", "voice": "lucia", "tts_provider": "Google"}],
        "parameters": {"shop": "north & south"},
    }
    await client.phone.set_number("+15550100004", settings)
    twiml = await twilio.phone(To="+15550100004").ring()
    relay = twiml.find("Connect/ConversationRelay")
    assert relay is not None
    assert {name: value for name, value in relay.attrib.items() if name not in ("url", "events")} == {
        "language": "en-GB",
        "voice": "amelia",
        "ttsProvider": "ElevenLabs",
        "transcriptionProvider": "Deepgram",
        "speechModel": "nova-3-general",
        "hints": "Parley,a & b",
        "welcomeGreeting": "Good <day> & welcome!",
        "welcomeGreetingInterruptible": "none",
        "interruptible": "speech",
        "dtmfDetection": "true",
        "partialPrompts": "false",
    }
    assert [(one.tag, dict(one.attrib)) for one in relay] == [
        ("Language", {"code": "es-ES", "ttsProvider": "Google", "voice": "lucia"}),
        ("Parameter", {"name": "shop", "value": "north & south"}),
    ]
    for element in twiml.iter():
        assert set(element.attrib) <= ATTRIBUTES.get(element.tag, frozenset())


async def test_a_number_that_no_workspace_has_is_not_answered(twilio: Twilio):
    assert [verb.tag for verb in await twilio.phone(To="+15550109999").ring()] == ["Reject"]


CALLBACKS = ("ring", "in-progress", "completed", "action")


@pytest.mark.usefixtures("worker")
async def test_callbacks_come_in_any_order_and_twice(client: Client, twilio: Twilio):
    for order in [*itertools.permutations(CALLBACKS)][::4]:
        phone = twilio.phone()
        for name in order * 2:
            if name == "ring":
                await phone.ring()
            elif name == "action":
                assert await phone.action(CallStatus="completed", SessionStatus="completed") is not None
            else:
                await phone.status(name)
        await twilio.gateway.server._gateway.phone.reported()  # pyright: ignore[reportPrivateUsage]
        await phone.status("completed")
        await twilio.gateway.server._gateway.phone.reported()  # pyright: ignore[reportPrivateUsage]
        await client.temporal.get_workflow_handle(workflow_id(client.workspace_id, phone.sid)).result()
        call = await client.phone.call(phone.sid)
        assert (call.status, call.reason, call.ended_at is not None) == ("completed", "caller", True), order


async def test_a_status_never_goes_back(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    for name, now in (("in-progress", "in-progress"), ("ringing", "in-progress"), ("no-answer", "no-answer"),
                      ("completed", "no-answer"), ("in-progress", "no-answer")):  # fmt: skip
        await phone.status(name)
        assert (await client.phone.call(phone.sid)).status == now


@pytest.mark.parametrize(
    ("limits", "is_taken"),
    [
        ({}, True),
        ({"workspace_concurrent": 1}, False),
        ({"number_concurrent": 1}, False),
        ({"caller_concurrent": 1}, False),
        ({"caller_concurrent": 2}, True),
        ({"workspace_minutes": 0}, False),
        ({"caller_usd": 0}, False),
    ],
)
async def test_a_limit_of_the_number_refuses_the_next_phone_call(
    client: Client, twilio: Twilio, limits: dict[str, Any], is_taken: bool
):
    await client.phone.set_number("+15550100005", {})
    first = twilio.phone(To="+15550100005")
    await first.ring()
    await client.phone.set_number("+15550100006", {"limits": limits})
    same = "+15550100005" if "number_concurrent" in limits else "+15550100006"
    if same == "+15550100005":
        await client.phone.set_number(same, {"limits": limits})
        await running_again(twilio)
    verbs = [verb.tag for verb in await twilio.phone(To=same).ring()]
    assert verbs == (["Connect"] if is_taken else ["Reject"])
    assert [verb.tag for verb in await first.ring()] == ["Connect"]  # a repetition changes nothing


async def test_callers_who_withhold_their_number_are_not_one_caller(client: Client, twilio: Twilio):
    await client.phone.set_number("+15550100007", {"limits": {"caller_concurrent": 1}})
    phones = [twilio.phone(To="+15550100007", From="anonymous") for _ in range(3)]
    assert [verb.tag for phone in phones for verb in await phone.ring()] == ["Connect"] * 3
    assert len({(await client.phone.call(phone.sid)).user_id for phone in phones}) == 3


async def running_again(twilio: Twilio) -> None:
    """Forget what the gateway knows of the numbers."""
    twilio.gateway.server._gateway.phone._known.clear()  # pyright: ignore[reportPrivateUsage]


async def test_concurrent_phone_calls_cannot_exceed_a_limit(client: Client, twilio: Twilio):
    await client.phone.set_number("+15550100007", {"limits": {"workspace_concurrent": 3, "caller_concurrent": None}})
    answers = await asyncio.gather(*(twilio.phone(To="+15550100007").ring() for _ in range(12)))
    assert sorted(verb.tag for answer in answers for verb in answer) == ["Connect"] * 3 + ["Reject"] * 9


@pytest.mark.usefixtures("worker")
async def test_a_lost_session_is_connected_again_and_the_talk_goes_on(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export?")
        first = await session.answer()
    twiml = await phone.action(SessionStatus="failed", ErrorCode="64105")
    relay = twiml.find("Connect/ConversationRelay")
    assert relay is not None
    assert "welcomeGreeting" not in relay.attrib
    async with phone.session(relay.get("url")) as session:
        assert "interrupted" in await session.answer()
        await session.say("And which of them is the fastest?")
        await session.answer()
    context = await (await client.find_conversation(phone.sid)).context()
    assert [message.text for message in context if message.role == "assistant"] == [first]
    call = await client.phone.call(phone.sid)
    assert (call.sessions, call.turns, call.status) == (2, 2, "in-progress")


async def spoken_again(phone: Phone) -> str:
    """What is said after a session was lost."""
    await phone.action(SessionStatus="failed", ErrorCode="64105")
    async with phone.session() as session:
        said = await session.answer()
    phrase = "I am sorry, the line was interrupted. "
    assert said.startswith(phrase)
    return said.removeprefix(phrase)


@pytest.mark.usefixtures("worker")
async def test_an_answer_that_was_spoken_when_the_session_was_lost_goes_on_where_it_was(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        session.is_slow = True
        await session.say("Which formats can I export, and who may start the export?")
        first = await session.answer()
    [cut] = await client.phone.turns(phone.sid)
    assert f"{cut.heard} {await spoken_again(phone)}".strip() == first
    [whole] = await client.phone.turns(phone.sid)
    assert (whole.heard, whole.error, whole.response_ms) == (None, "", cut.response_ms)


@pytest.mark.usefixtures("worker")
async def test_an_answer_that_was_spoken_when_the_gateway_was_lost_goes_on_with_words_that_were_not_heard(
    client: Client, twilio: Twilio, database_url: str
):
    """The end of the session is not recorded: the answer had been spoken for two seconds."""
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export?")
        first = await session.answer()
    begun = """
        UPDATE conversation_turns SET created_at = clock_timestamp() - make_interval(secs => 2 + response_ms / 1000.0)
        WHERE conversation_id = %s RETURNING number"""
    assert await run_sql(database_url, begun, phone.sid)
    await run_sql(database_url, "UPDATE call_sessions SET left_session = 0 WHERE call_sid = %s", phone.sid)
    rest = await spoken_again(phone)
    assert first.endswith(rest)
    assert 2 * CHARACTERS_PER_SECOND <= len(first) - len(rest) < len(first)
    assert (await client.phone.turns(phone.sid))[0].heard is None


@pytest.mark.usefixtures("worker")
async def test_after_a_lost_session_no_turn_has_the_id_of_another_one(
    client: Client, twilio: Twilio, database_url: str
):
    """A turn that is interrupted before it is stored has an id, and no row."""
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        for text in ("Which formats can I export?", "And which of them is the fastest?"):
            await session.say(text)
            await session.answer()
    await run_sql(database_url, "DELETE FROM conversation_turns WHERE turn_id = %s", f"{phone.sid}:1")
    await phone.action(SessionStatus="failed", ErrorCode="64105")
    async with phone.session() as session:
        await session.answer()
        await session.say("Who may start the export?")
        said = await session.answer()
    assert (await client.phone.turns(phone.sid))[-1].answer == said


@pytest.mark.usefixtures("worker")
async def test_as_the_fallback_url_the_voice_webhook_goes_on_where_the_action_callback_failed(twilio: Twilio):
    phone, failed = twilio.phone(), {"ErrorCode": "11200", "ErrorUrl": "https://phone.example.com/phone/action"}
    greeting = "Connect/ConversationRelay[@welcomeGreeting]"
    assert (await phone.ring(**failed)).find(greeting) is not None
    async with phone.session():
        pass
    twiml = await phone.ring(**failed)
    assert twiml.find(greeting) is None
    assert twiml.find("Connect/ConversationRelay") is not None


async def test_a_session_that_is_lost_again_and_again_ends(client: Client, twilio: Twilio):
    phone = twilio.phone()
    await phone.ring()
    for _ in range(10):
        async with phone.session() as session:
            session.socket.transport.abort()
    await until_sessions(client, phone, 10)
    verbs = [verb.tag for verb in await phone.action(SessionStatus="failed", ErrorCode="64105")]
    assert verbs == ["Say", "Hangup"]
    assert (await client.phone.call(phone.sid)).reason == "lost"


async def until_sessions(client: Client, phone: Phone, count: int) -> None:
    async with asyncio.timeout(60):
        while (await client.phone.call(phone.sid)).sessions < count:
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("worker")
async def test_a_caller_who_wants_a_person_is_connected_with_one(client: Client, twilio: Twilio):
    await client.phone.set_number("+15550100008", {"transfer_to": "+15550100099"})
    phone = twilio.phone(To="+15550100008")
    await phone.ring()
    async with phone.session() as session:
        await session.say("I would like to speak to a person, please.")
        assert "person" in await session.answer()
        handoff = json.loads((await session.until("end"))["handoffData"])
    assert handoff["reason"] == "transfer"
    for _ in range(2):
        [dial] = await phone.action(SessionStatus="ended", HandoffData=json.dumps(handoff))
        assert (dial.tag, dial[0].text, dial.get("callerId")) == ("Dial", "+15550100099", "+15550100008")
    call = await client.phone.call(phone.sid)
    assert (call.reason, (call.handoff or {})["reason"]) == ("transfer", "transfer")


async def test_no_number_is_in_a_log(client: Client, twilio: Twilio, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG", logger="parley")
    phone = twilio.phone(To="+15550109999")
    await phone.ring()
    known = twilio.phone()
    await known.ring()
    await known.status("completed")
    await known.action(SessionStatus="failed", ErrorCode="64105")
    for number in (CALLER, NUMBER, "+15550109999"):
        assert number not in caplog.text


@pytest.mark.usefixtures("worker")
async def test_an_outbound_phone_call_has_its_parameters(client: Client, gateway: Running):
    path = "/phone/voice?" + urlencode({"parameters": json.dumps({"customer": "ann"})})
    phone = Twilio(gateway).phone(From=NUMBER, To=CALLER, Direction="outbound-api")
    answer = await phone.twilio.post(path, phone.form(CallStatus="in-progress"))
    assert '<Parameter name="customer" value="ann" />' in answer.text
    async with phone.session() as session:
        await session.say("Hello?")
        assert await session.answer()
    call = await client.phone.call(phone.sid)
    assert (call.direction, call.number, call.caller, call.parameters) == (
        "outbound",
        NUMBER,
        CALLER,
        {"customer": "ann"},
    )


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("fault", ["hang", "stall"])
async def test_a_question_whose_answer_was_cut_off_by_a_lost_session_is_answered(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin, fault: str
):
    await simulator.fault(fault)
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export?")
        await simulator.requests(at_least=1)
        if fault == "stall":
            await session.first_text()
        session.socket.transport.abort()
    await phone.action(SessionStatus="failed", ErrorCode="64105")
    async with phone.session() as session:
        said = await session.answer()
    turns = await client.phone.turns(phone.sid)
    assert said == f"I am sorry, the line was interrupted. {turns[-1].answer}"
    assert {one.text for one in turns} == {"Which formats can I export, and who may start the export?"}


@pytest.mark.usefixtures("worker")
async def test_an_interruption_of_the_words_before_a_resumed_answer_leaves_nothing_of_it(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin
):
    await simulator.fault("hang")
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export?")
        await simulator.requests(at_least=1)
        session.socket.transport.abort()
    await phone.action(SessionStatus="failed", ErrorCode="64105")
    async with phone.session() as session:
        await session.answer()
        await session.interrupt("I am sorry, the line", 1300)
        await session.say("And which of them is the fastest?")
        await session.answer()
    turns = await client.phone.turns(phone.sid)
    assert [one.heard for one in turns][-2:] == ["", None]


@pytest.mark.usefixtures("worker")
async def test_an_answer_that_is_overtaken_by_the_next_question_ends_its_sentence(
    client: Client, twilio: Twilio, simulator: SimulatorAdmin
):
    await simulator.fault("stall")
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await session.say("Which formats can I export, and who may start the export?")
        await session.first_text()
        await session.say("And which of them is the fastest?")
        await session.answer()
        await session.answer()
    first, second = await client.phone.turns(phone.sid)
    sent = "".join(frame["token"] for frame in session.frames)
    assert sent == (first.heard or "") + sent[len(first.heard or "") :]
    assert sent.strip().endswith(second.answer or "")


@pytest.mark.usefixtures("worker")
async def test_a_gateway_that_drains_finishes_its_answer_and_leaves_the_talk_to_another_one(
    client: Client, backend: Backend, settings: Settings, simulator: SimulatorAdmin
):
    await simulator.fault("slow_tokens", hold=1)
    async with running_gateway(backend, settings) as first, running_gateway(backend, settings) as second:
        phone = Twilio(first).phone()
        await phone.ring()
        async with phone.session() as session:
            await session.say("Which formats can I export?")
            await session.first_text()
            first.server.stop()
            await session.answer()
            said = "".join(frame["token"] for frame in session.frames)
            assert await session.closed() == 1012
        await first.serving
        again = Phone(Twilio(second), phone.sid)
        await again.action(SessionStatus="failed", ErrorCode="64105")
        async with again.session() as session:
            assert await session.answer() == "I am sorry, the line was interrupted."
            await session.say("And which of them is the fastest?")
            await session.answer()
    assert (await client.phone.turns(phone.sid))[0].answer == said
