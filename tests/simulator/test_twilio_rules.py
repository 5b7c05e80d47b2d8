"""The rules of the simulated Twilio: signatures, TwiML, frames, scripts, figures."""

import asyncio
import json

import pytest

from simulator.twilio import frames, signature, twiml
from simulator.twilio.clock import Clock
from simulator.twilio.line import Account
from simulator.twilio.log import CallLog, Event
from simulator.twilio.network import Lane, Network
from simulator.twilio.script import ScriptError, load, parse, ready_scripts
from simulator.twilio.summary import repetitions, summarize, turns_of
from simulator.twilio.view import printable

FORM = [("From", "+15550100001"), ("CallSid", "CA1"), ("Tag", "b"), ("Tag", "a"), ("Tag", "a"), ("Empty", "")]
URLS = ("https://phone.example.com/voice?x=1", "wss://phone.example.com/relay", "http://127.0.0.1:8080/voice")


class Repeated(dict):
    """A form for Twilio's own validator: names with all their values."""

    def getlist(self, name: str) -> list[str]:
        return self[name]


@pytest.mark.parametrize("algorithm", ["HMAC_SHA1", "HMAC_SHA256"])
@pytest.mark.parametrize("url", URLS)
def test_twilios_own_validator_accepts_the_signatures(url: str, algorithm: str):
    validator = pytest.importorskip("twilio.request_validator")
    form = Repeated({name: [value for found, value in FORM if found == name] for name, _ in FORM})
    signed = signature.headers("token", url, FORM, algorithm)
    named = validator.get_signature_algorithm(signed.get(signature.SETTINGS_HEADER))
    assert named == algorithm
    check = validator.RequestValidator("token").validate
    assert check(url, form, signed[signature.HEADER], named)
    assert not check(url, form, signature.sign("another token", url, FORM, algorithm), named)


def test_a_signature_is_that_of_twilios_documentation():
    form = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675309",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert signature.sign("12345", url, form.items()) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


def test_an_account_does_not_show_its_token():
    assert "secret" not in repr(Account(token="secret"))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://phone.example.com/voice?a=1", "http://127.0.0.1:80/voice?a=1"),
        ("wss://phone.example.com/relay", "ws://127.0.0.1:80/relay"),
        ("https://elsewhere.example.com/x", "https://elsewhere.example.com/x"),
    ],
)
def test_a_tunnel_leads_to_the_local_server(url: str, address: str):
    account = Account(public_url="https://phone.example.com", local_url="http://127.0.0.1:80/voice")
    found, headers = account.route(url)
    assert found == address
    assert headers.get("X-Forwarded-Proto") == ("https" if found != url else None)


# TwiML


def relay(attributes: str = "", children: str = "", url: str = "wss://a.example/relay") -> str:
    return (
        f'<Response><Connect><ConversationRelay url="{url}" {attributes}>{children}</ConversationRelay></Connect>'
        "</Response>"
    )


def test_what_twilio_knows_is_read_without_a_warning():
    languages = '<Language code="es-ES" voice="x" ttsProvider="Google"/><Parameter name="plan" value="a&amp;b"/>'
    attributes = 'dtmfDetection="true" interruptible="false" welcomeGreetingInterruptible="speech" language="de-DE"'
    document = twiml.read(relay(f'{attributes} welcomeGreeting="Hi" events="tokens-played"', languages))
    assert document.warnings == ()
    found = twiml.relay_of(document.verbs[0])
    assert (found.reads_keys, found.interruptible, found.greeting_interruptible) == (True, "none", "speech")
    assert (found.greeting, found.tts_language, found.transcription_language) == ("Hi", "de-DE", "de-DE")
    assert dict(found.parameters) == {"plan": "a&b"}


@pytest.mark.parametrize(
    ("body", "warning"),
    [
        (relay('dtmf_detection="true"'), "12200: <ConversationRelay> has no attribute 'dtmf_detection'"),
        (relay('welcomegreeting="Hi"'), "12200: <ConversationRelay> has no attribute 'welcomegreeting'"),
        (relay('interruptible="yes"'), "64106: interruptible='yes'"),
        (relay('events="tokens"'), "64106: events: 'tokens'"),
        (relay(children='<Language lang="es"/>'), "12200: <Language> has no attribute 'lang'"),
        (relay(children="<Voice/>"), "12200: <ConversationRelay> takes no <Voice>"),
        ("<Response><Speak>Hi</Speak></Response>", "12200: <Response> takes no <Speak>"),
    ],
)
def test_what_twilio_does_not_know_is_reported_and_ignored(body: str, warning: str):
    document = twiml.read(body)
    assert len(document.warnings) == 1
    assert document.warnings[0].startswith(warning)


def test_a_misspelled_attribute_has_no_effect():
    document = twiml.read(relay('dtmf_detection="true" interruptible="yes"'))
    found = twiml.relay_of(document.verbs[0])
    assert (found.reads_keys, found.interruptible) == (False, "any")


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        ("<Response>", "text/xml", 12100),
        ('{"a": 1}', "application/json", 12300),
        ("<Reply/>", "text/xml", 12102),
        ('<!DOCTYPE a [<!ENTITY b "c">]><Response/>', "text/xml", 12100),
        (f"<Response><Say>{'a' * 65_536}</Say></Response>", "text/xml", 11750),
    ],
)
def test_what_is_not_twiml_is_refused(body: str, content_type: str, code: int):
    with pytest.raises(twiml.Refused) as refused:
        twiml.read(body, content_type)
    assert refused.value.code == code


def test_a_reply_of_plain_text_is_read_aloud():
    document = twiml.read("OK", "text/plain; charset=utf-8")
    assert [(verb.name, verb.text) for verb in document.verbs] == [("Say", "OK")]
    assert len(document.warnings) == 1


def test_an_empty_reply_is_an_empty_document():
    assert twiml.read("", "application/octet-stream") == twiml.Document((), ())


@pytest.mark.parametrize("url", ["ws://a.example/relay", "https://a.example/relay", "/relay", ""])
def test_a_url_without_wss_is_refused(url: str):
    with pytest.raises(twiml.Refused, match="64101"):
        twiml.relay_of(twiml.read(relay(url=url)).verbs[0])


def test_this_machine_needs_no_certificate():
    assert twiml.relay_of(twiml.read(relay(url="ws://127.0.0.1:80/relay")).verbs[0]).url.startswith("ws://")


# Frames


@pytest.mark.parametrize(
    ("sent", "frame"),
    [
        ({"type": "text", "token": "Hi"}, frames.Text("Hi")),
        (
            {"type": "text", "token": "", "last": True, "interruptible": False, "preemptible": True, "lang": "es-ES"},
            frames.Text("", last=True, interruptible=False, preemptible=True, lang="es-ES"),
        ),
        ({"type": "play", "source": "https://a.example/b.wav", "loop": 0}, frames.Play("https://a.example/b.wav", 0)),
        ({"type": "sendDigits", "digits": "12w#*"}, frames.SendDigits("12w#*")),
        ({"type": "language", "ttsLanguage": "es-ES"}, frames.Language(tts_language="es-ES")),
        ({"type": "end", "handoffData": '{"a":1}'}, frames.End('{"a":1}')),
        ({"type": "end"}, frames.End()),
    ],
)
def test_a_frame_is_read(sent: dict[str, object], frame: frames.ServerFrame):
    assert frames.read_frame(json.dumps(sent)) == (frame, [])


@pytest.mark.parametrize(
    "data",
    [
        "Hello",
        '"text"',
        "[]",
        "{}",
        '{"type": "speak", "token": "a"}',
        '{"type": "text"}',
        '{"type": "text", "token": null}',
        '{"type": "text", "token": 1}',
        '{"type": "text", "token": "a", "last": "true"}',
        '{"type": "play", "source": "a.wav"}',
        '{"type": "play", "source": "https://a.example/b", "loop": -1}',
        '{"type": "play", "source": "https://a.example/b", "loop": true}',
        '{"type": "sendDigits", "digits": "call"}',
        '{"type": "language"}',
        '{"type": "end", "handoffData": {"a": 1}}',
        b"\x00",
    ],
)
def test_a_malformed_frame_is_refused(data: str | bytes):
    with pytest.raises(frames.Malformed):
        frames.read_frame(data)


def test_an_unknown_field_is_named():
    assert frames.read_frame('{"type": "text", "token": "a", "final": true}')[1] == ["final"]


# Scripts


def test_the_ready_scripts_are_scripts_and_say_what_they_show():
    assert {"barge-in", "hours", "keys", "dropped", "slow-network", "called"} <= ready_scripts().keys()
    for name, line in ready_scripts().items():
        assert load(name).steps
        assert line.endswith(".")


def test_settings_and_steps_are_read():
    script = parse(
        """
        # A comment.
        network delay 80 ms jitter 20 ms
        network doubled 5%
        voice 20 characters a second
        callbacks twice
        say "Hello?" at once
        barge in after 1.2 s with "Wait"
        press 12#
        expect "nine" within 3 s
        """
    )
    assert script.network == Network(delay=0.08, jitter=0.02, doubled=0.05)
    assert (script.characters_per_second, script.callbacks) == (20.0, "twice")
    assert [(step.name, step.arguments) for step in script.steps] == [
        ("say", {"text": "Hello?", "at_once": True}),
        ("barge in", {"seconds": 1.2, "text": "Wait"}),
        ("press", {"keys": "12#", "at_once": False}),
        ("expect", {"text": "nine", "seconds": 3.0}),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("say hello", "line 1: 'say hello' is not a step"),
        ('\nsay "a"\nbusy', "line 3: 'busy' is not a step \\(settings come before the first step\\)"),
        ("press 12x", "is not a step"),
        ("wait 3 minutes", "is not a step"),
    ],
)
def test_another_line_is_refused_with_its_number(text: str, problem: str):
    with pytest.raises(ScriptError, match=problem):
        parse(text)


def test_a_script_that_is_not_there_is_refused():
    with pytest.raises(ScriptError, match="neither a file nor one of the scripts"):
        load("nothing-of-this-name")


# The network


async def delivered(network: Network, count: int) -> list[str]:
    found: list[str] = []
    is_done = asyncio.Event()

    async def take(frame: str) -> None:
        found.append(frame)
        if frame == "end":
            is_done.set()

    lane = Lane(Clock(100), network, 7, take)
    for number in range(count):
        lane.put(str(number))
    lane.put("end")
    running = asyncio.create_task(lane.run())
    await is_done.wait()
    await asyncio.sleep(0)
    running.cancel()
    return found


async def test_frames_arrive_in_order_whatever_their_delay():
    assert await delivered(Network(delay=0.1, jitter=0.5), 20) == [*map(str, range(20)), "end"]


async def test_frames_are_doubled_and_reordered_by_the_seed():
    found = await delivered(Network(doubled=0.3), 20)
    assert found == [*sorted(found[:-1], key=int), "end"]
    assert 21 < len(found) < 40
    assert found == await delivered(Network(doubled=0.3), 20)
    found = await delivered(Network(reordered=0.3), 20)
    assert found != [*map(str, range(20)), "end"]
    assert sorted(found) == sorted([*map(str, range(20)), "end"])


# Figures


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("We are open from nine. We close at five.", []),
        ("That is very very kind, and he had had it.", []),
        ("We are open from nine to five from nine to five.", ["from nine to five"]),
        ("We are open We are open, and so on.", ["we are open"]),
        ("on Saturday Saturday", ["saturday"]),
        ("", []),
    ],
)
def test_repeated_words_are_found(text: str, found: list[str]):
    assert repetitions(text) == found


def test_the_figures_of_a_phone_call():
    clock = Clock()
    log = CallLog(clock)
    log.events = [
        Event(0.0, "greeting", {"text": "Hello"}),
        Event(1.0, "said", {"text": "When?", "ended": 0.7}),
        Event(1.2, "text", {"token": " ", "last": False}),
        Event(1.5, "text", {"token": "At nine.", "last": False}),
        Event(1.8, "speaking", {"kind": "text"}),
        Event(2.0, "text", {"token": " At nine.", "last": True}),
        Event(2.1, "gap", {"seconds": 0.8}),
        Event(2.2, "interrupt", {}),
        Event(3.0, "said", {"text": "What?", "ended": 2.7}),
        Event(9.0, "error", {"text": "no answer"}),
    ]
    [first, second] = turns_of(log.events)
    assert (first.answer, first.interrupted, second.is_answered) == (" At nine. At nine.", True, False)
    found = summarize([log])
    assert (found.first_text_ms.p50, found.answer_ms.p95, found.heard_ms.longest) == (500, 1000, 1100)
    assert (found.turns, found.unanswered, found.interruptions, found.gaps, found.longest_gap_ms) == (2, 1, 1, 1, 800)
    assert (found.repeated, found.failed, found.errors) == (("at nine",), 1, 1)


def test_percentiles_are_values_that_occurred():
    logs = []
    for milliseconds in range(1, 101):
        log = CallLog(Clock())
        log.events = [
            Event(0.0, "said", {"text": "a", "ended": 0.0}),
            Event(milliseconds / 1000, "text", {"token": "b", "last": True}),
        ]
        logs.append(log)
    found = summarize(logs).first_text_ms
    assert (found.p50, found.p95, found.longest) == (50, 95, 100)


def test_no_text_of_a_server_controls_the_terminal():
    assert printable("a\x1b[2Jb\nc\x9bd\u202e") == "a\ufffd[2Jb c\ufffdd\ufffd"
