"""Simulated phone calls to an agent that follows ConversationRelay's rules, and to agents that break one."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.websockets import WebSocketDisconnect

from simulator.twilio import network, person
from simulator.twilio.__main__ import main
from simulator.twilio.line import Account
from simulator.twilio.log import KINDS, Event
from simulator.twilio.script import parse
from simulator.twilio.simulation import Plan, Simulated, simulate
from simulator.twilio.summary import summarize, turns_of
from tests.simulator.phone_agent import LONG, TOKEN, Agent, Talk, connect, serving, words

ROOT = Path(__file__).resolve().parents[2]
SPEED = 40
GREETING = "Hello, how can I help?"
# Seeds that choose differently.
SEEDS = (0, 1, 2, 3)
ASK = 'say "When are you open?"\nwait until quiet'

Make = Callable[..., Awaitable[Simulated]]


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with serving(Agent()) as agent:
        yield agent


@pytest.fixture
def make(agent: Agent) -> Make:
    """Make phone calls with a script; returns the last one. Every kind of event must be a known one."""

    async def made(text: str, **options: Any) -> Simulated:
        plan = Plan(
            parse(text),
            f"{agent.url}/phone/voice",
            f"{agent.url}/phone/status",
            **({"account": Account(token=TOKEN), "speed": SPEED} | options),
        )
        async with asyncio.timeout(30):
            found = await simulate(plan)
        assert {event.kind for one in found for event in one.log.events} <= KINDS.keys()
        return found[-1]

    return made


def kinds(one: Simulated) -> list[str]:
    return [event.kind for event in one.log.events]


def details(one: Simulated, kind: str) -> list[dict[str, Any]]:
    return [event.details for event in one.log.of(kind)]


def texts(one: Simulated, kind: str) -> list[str]:
    return [found["text"] for found in details(one, kind)]


async def test_a_talk_from_the_ring_to_the_last_callback(agent: Agent, make: Make):
    one = await make(ASK)
    assert (one.log.of("error"), one.log.of("warning"), agent.unsigned) == ([], [], [])
    [setup] = agent.received("setup")
    assert agent.frames[0] == setup
    assert (setup["callSid"], setup["from"], setup["to"]) == (
        one.phone_call.dialled.sid,
        "+15550100001",
        "+15550100002",
    )
    assert (setup["direction"], setup["callStatus"], setup["customParameters"]) == ("inbound", "RINGING", {})
    assert agent.received("prompt") == [
        {"type": "prompt", "voicePrompt": "When are you open?", "lang": "en-US", "last": True}
    ]
    [turn] = turns_of(one.log.events)
    assert turn.answer == turn.heard == LONG
    assert [path for path, _ in agent.forms] == ["/phone/voice", "/phone/action", "/phone/status"]
    assert agent.closes == [1000]


async def test_the_forms_are_those_of_twilio(agent: Agent, make: Make):
    one = await make(ASK)
    voice, action, status = (agent.form(f"/phone/{name}") for name in ("voice", "action", "status"))
    shared = {"CallSid": one.phone_call.dialled.sid, "Direction": "inbound", "ApiVersion": "2010-04-01"}
    for form in (voice, action, status):
        assert form.items() >= shared.items()
        assert (form["From"], form["Caller"], form["To"]) == ("+15550100001", "+15550100001", "+15550100002")
        assert form["FromCity"] == ""
    assert (voice["CallStatus"], action["CallStatus"], status["CallStatus"]) == ("ringing", "completed", "completed")
    assert action["SessionStatus"] == "completed"
    assert action["SessionId"] == agent.received("setup")[0]["sessionId"]
    assert not action.keys() & {"HandoffData", "ErrorCode"}
    assert int(status["CallDuration"]) >= int(action["SessionDuration"]) >= 5


async def test_parameters_and_languages_reach_the_session(agent: Agent, make: Make):
    agent.attributes["language"] = "es-ES"
    agent.nouns = '<Parameter name="plan" value="gold"/>'

    async def change(talk: Talk, prompt: str) -> None:
        await talk.send(type="language", ttsLanguage="de-DE", transcriptionLanguage="de-DE")
        await talk.answer(prompt)

    agent.on_prompt = change
    await make(f'{ASK}\nsay "Danke"\nwait until quiet')
    assert agent.received("setup")[0]["customParameters"] == {"plan": "gold"}
    assert [frame["lang"] for frame in agent.received("prompt")] == ["es-ES", "de-DE"]


async def test_partial_prompts_grow_if_the_twiml_asks_for_them(agent: Agent, make: Make):
    agent.attributes["partialPrompts"] = "true"
    await make('say "one two three four five six seven eight nine"\nwait until quiet')
    found = [frame["voicePrompt"] for frame in agent.received("prompt") if not frame["last"]]
    assert len(found) > 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(found))
    assert agent.received("prompt")[-1]["last"]


BARGE = 'say "Tell me all."\nbarge in after 4 s with "Stop, please"\nwait until quiet'


async def test_a_barge_in_stops_the_voice_and_reports_the_last_segment(agent: Agent, make: Make):
    one = await make(BARGE)
    [interrupt] = agent.received("interrupt")
    heard = interrupt["utteranceUntilInterrupt"]
    first = turns_of(one.log.events)[0]
    # The voice took a breath after the first sentence: only what follows it is reported.
    assert first.heard.startswith("We are open from Monday to Friday. We open")
    assert first.heard.endswith(heard)
    assert heard.startswith("We open")
    assert first.heard != first.answer
    assert first.interrupted
    kinds_received = [frame["type"] for frame in agent.frames]
    assert kinds_received == ["setup", "prompt", "interrupt", "prompt"]


async def test_what_the_caller_says_may_overtake_the_interruption(agent: Agent, make: Make):
    one = await make(f"network late interrupts\n{BARGE}")
    assert [frame["type"] for frame in agent.frames] == ["setup", "prompt", "prompt", "interrupt"]
    [interrupt] = agent.received("interrupt")
    assert turns_of(one.log.events)[0].heard.endswith(interrupt["utteranceUntilInterrupt"])


async def test_the_duration_comes_in_every_form(agent: Agent, make: Make):
    await make('say "All."\nbarge in after 1.5 s with "Stop"\nhang up', phone_calls=8)
    durations = [frame["durationUntilInterruptMs"] for frame in agent.received("interrupt")]
    assert all(float(duration) > 100 for duration in durations)
    assert {type(duration) for duration in durations} == {int, str, float}


async def test_an_interruption_before_the_first_word_reports_nothing_heard(agent: Agent, make: Make):
    one = await make('say "I want to book"\nbarge in with "an appointment for Monday"\nwait until quiet')
    [interrupt] = agent.received("interrupt")
    assert (interrupt["utteranceUntilInterrupt"], float(interrupt["durationUntilInterruptMs"])) == ("", 0)
    assert turns_of(one.log.events)[0].heard == ""


@pytest.mark.parametrize(("reported", "prompts"), [("none", 1), ("any", 2), ("dtmf", 1)])
async def test_speech_over_an_agent_that_may_not_be_interrupted(agent: Agent, make: Make, reported: str, prompts: int):
    agent.attributes |= {"interruptible": "none", "reportInputDuringAgentSpeech": reported}
    one = await make(BARGE)
    assert agent.received("interrupt") == []
    assert len(agent.received("prompt")) == prompts
    assert texts(one, "lost") == ([] if prompts == 2 else ["Stop, please"])
    assert turns_of(one.log.events)[0].heard == LONG


async def test_one_text_may_forbid_the_interruption(agent: Agent, make: Make):
    async def insist(talk: Talk, prompt: str) -> None:
        await talk.send(type="text", token=LONG, last=True, interruptible=False)

    agent.on_prompt = insist
    one = await make(BARGE)
    assert agent.received("interrupt") == []
    assert turns_of(one.log.events)[0].heard == LONG


async def test_text_that_is_sent_long_after_the_interruption_is_not_spoken_and_reported(agent: Agent, make: Make):
    async def go_on(talk: Talk, prompt: str) -> None:
        talk.answering = None  # an interruption does not stop this agent
        with suppress(WebSocketDisconnect, RuntimeError):
            for word in words(LONG * 10):
                await talk.send(type="text", token=word, last=False)
                await asyncio.sleep(0.01)

    agent.on_prompt = go_on
    one = await make(f'say "Tell me all."\nbarge in after 1 s with "{" ".join(["Stop"] * 60)}"')
    [warning] = texts(one, "warning")
    assert "long after the interruption" in warning


async def test_a_preemptible_text_stops_for_the_next_one(agent: Agent, make: Make):
    async def narrate(talk: Talk, prompt: str) -> None:
        await talk.send(type="text", token=LONG, last=True, preemptible=True)
        await asyncio.sleep(0.08)
        await talk.send(type="text", token="Here it is.", last=True)

    agent.on_prompt = narrate
    one = await make(ASK)
    heard = turns_of(one.log.events)[0].heard
    assert heard.endswith("Here it is.")
    assert len(heard) < len(LONG)
    assert agent.received("interrupt") == []


async def test_keys_are_reported_one_by_one_before_any_word(agent: Agent, make: Make):
    agent.attributes |= {"dtmfDetection": "true", "welcomeGreeting": GREETING}
    await make('press 12*# at once\nsay "and the rest by voice"\nwait until quiet')
    assert [frame["digit"] for frame in agent.received("dtmf")] == ["1", "2", "*", "#"]
    assert [frame["type"] for frame in agent.frames].index("dtmf") == 1
    assert len(agent.received("interrupt")) == 1  # of the greeting


async def test_keys_are_not_reported_without_dtmf_detection(agent: Agent, make: Make):
    one = await make('press 1 at once\nsay "Hello"\nwait until quiet')
    assert agent.received("dtmf") == []
    assert details(one, "key") == [{"digit": "1", "reported": False}]


async def test_subscribed_events_name_who_speaks_and_what_was_played(agent: Agent, make: Make):
    agent.attributes |= {"events": "speaker-events tokens-played", "welcomeGreeting": GREETING}
    await make(ASK)
    found = [(frame["name"], frame["value"]) for frame in agent.received("info")]
    played = [value for name, value in found if name == "tokensPlayed"]
    assert played[0] == GREETING
    assert "".join(played[1:]) == LONG
    assert len(played) == 3
    assert [value for name, value in found if name == "clientSpeaking"] == ["on", "off"]
    assert found[0] == ("agentSpeaking", "on")
    assert found[-1] == ("agentSpeaking", "off")


async def test_recordings_and_keys_wait_their_turn(agent: Agent, make: Make):
    async def play(talk: Talk, prompt: str) -> None:
        await talk.send(type="text", token="Listen.", last=True)
        await talk.send(type="play", source="https://a.example/b.wav", loop=2)
        await talk.send(type="sendDigits", digits="1234#")
        await talk.send(type="text", token="Done.", last=True)

    agent.on_prompt = play
    one = await make(ASK)
    [play_at], [quiet_at] = ([event.at for event in one.log.of(kind)][-1:] for kind in ("play", "quiet"))
    assert quiet_at - play_at > 2 * 2.0 + 5 * 0.38
    assert turns_of(one.log.events)[0].heard == "Listen.Done."


async def test_a_silence_in_an_answer_is_a_gap_and_repeated_words_are_found(agent: Agent, make: Make):
    async def stumble(talk: Talk, prompt: str) -> None:
        await talk.send(type="text", token="We are open from nine ", last=False)
        await asyncio.sleep(0.25)
        await talk.send(type="text", token="open from nine to five.", last=True)

    agent.on_prompt = stumble
    one = await make(ASK)
    [gap] = details(one, "gap")
    assert gap["seconds"] > 0.5
    assert summarize([one.log], SPEED).repeated == ("open from nine",)


async def test_the_end_of_a_session_hands_over_to_a_person(agent: Agent, make: Make):
    handoff = json.dumps({"reason": "asked for a person"})

    async def end(talk: Talk, prompt: str) -> None:
        await talk.send(type="end", handoffData=handoff)

    agent.on_prompt = end
    agent.after["ended"] = "<Response><Say>One moment.</Say><Dial><Number>+15550100009</Number></Dial></Response>"
    one = await make('say "A person, please."\nexpect transfer')
    form = agent.form("/phone/action")
    assert (form["SessionStatus"], form["HandoffData"], form["CallStatus"]) == ("ended", handoff, "in-progress")
    assert one.phone_call.transferred_to == "+15550100009"
    assert one.log.of("error") == []


async def test_an_end_that_cuts_off_the_last_words_is_reported(agent: Agent, make: Make):
    async def hurry(talk: Talk, prompt: str) -> None:
        await talk.send(type="text", token="Good-bye, and thank you for your time.", last=True)
        await talk.send(type="end")

    agent.on_prompt = hurry
    one = await make(ASK)
    assert any("cuts off what was not yet spoken: 'Good-bye" in text for text in texts(one, "warning"))


async def test_after_a_lost_connection_the_action_callback_decides(agent: Agent, make: Make):
    agent.after["failed"] = connect(agent)
    one = await make(f'say "Tell me all."\nbarge in after 1 s with "Stop"\ndrop\n{ASK}')
    actions = [dict(form) for path, form in agent.forms if path == "/phone/action"]
    assert [form["SessionStatus"] for form in actions] == ["failed", "completed"]
    assert (actions[0]["ErrorCode"], actions[0]["ErrorMessage"]) == ("64105", "Websocket ended")
    first, second = agent.received("setup")
    assert first["callSid"] == second["callSid"]
    assert first["sessionId"] != second["sessionId"]
    assert second["callStatus"] == "IN_PROGRESS"
    assert turns_of(one.log.events)[-1].heard == LONG
    assert agent.closes[0] != 1000


async def test_a_server_that_closes_the_socket_has_lost_the_session(agent: Agent, make: Make):
    async def leave(talk: Talk, prompt: str) -> None:
        await talk.socket.close(1000)

    agent.on_prompt = leave
    await make('say "Hello"')
    assert agent.form("/phone/action")["ErrorCode"] == "64105"


async def test_the_tenth_malformed_frame_in_a_row_ends_the_session(agent: Agent, make: Make):
    async def babble(talk: Talk, prompt: str) -> None:
        for _ in range(9):
            await talk.socket.send_text("this is not json")
        await talk.send(type="text", token="Sorry.", last=True)
        for _ in range(10):
            await talk.socket.send_text('{"type": "speech"}')

    agent.on_prompt = babble
    one = await make('say "Hello"')
    refused = agent.received("error")
    assert refused[0]["description"] == "Invalid message received, code: 64107, this is not json"
    assert len(refused) == 19
    assert agent.closes == [1007]
    assert agent.form("/phone/action")["SessionStatus"] == "failed"
    assert len(texts(one, "warning")) == 19


async def test_malformed_and_error_frames_reach_the_server(agent: Agent, make: Make):
    await make(f'malformed\nerror "speech-to-text failed"\n{ASK}')
    assert not agent.raw[1].endswith("}")
    assert agent.received("error") == [{"type": "error", "description": "speech-to-text failed"}]
    assert len(agent.received("prompt")) == 1


async def test_a_network_doubles_frames(agent: Agent, make: Make):
    one = await make(f"network doubled 100%\nnetwork delay 50 ms\n{ASK}")
    assert [frame["type"] for frame in agent.frames] == ["setup", "setup", "prompt", "prompt"]
    assert one.log.of("error") == []


async def test_the_reply_to_the_action_callback_does_not_matter_after_the_hang_up(agent: Agent, make: Make):
    agent.after["completed"] = "this is not TwiML"
    assert (await make(ASK)).log.of("error", "warning") == []


@pytest.mark.parametrize(("callbacks", "count"), [("in order", 1), ("twice", 2), ("never", 0)])
async def test_callbacks_come_once_twice_or_never(agent: Agent, make: Make, callbacks: str, count: int):
    await make(f"callbacks {callbacks}\n{ASK}")
    assert [path for path, _ in agent.forms].count("/phone/status") == count


async def test_a_shuffled_callback_may_overtake_the_action(agent: Agent, make: Make):
    orders = set()
    for seed in SEEDS:
        agent.forms.clear()
        await make('callbacks shuffled\nsay "When?"\nhang up', seed=seed)
        orders.add(tuple(path for path, _ in agent.forms[1:]))
    assert orders == {("/phone/action", "/phone/status"), ("/phone/status", "/phone/action")}


async def test_an_agent_that_does_not_answer_is_an_error(agent: Agent, make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(person, "ANSWER", 0.1)

    async def say_nothing(talk: Talk, prompt: str) -> None:
        return None

    agent.on_prompt = say_nothing
    one = await make(ASK)
    assert texts(one, "error") == ["no answer within 0.1 s"]
    assert summarize([one.log]).unanswered == 1


async def test_an_answer_without_a_last_piece_is_an_error(agent: Agent, make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(person, "ANSWER", 0.3)

    async def forget(talk: Talk, prompt: str) -> None:
        await talk.send(type="text", token="We are open until five", last=False)

    agent.on_prompt = forget
    one = await make(ASK)
    [error] = texts(one, "error")
    assert error.startswith("an answer is not complete")
    # The last word may go on: it is not spoken.
    assert turns_of(one.log.events)[0].heard == "We are open until"


async def test_an_expected_text_that_does_not_come_is_an_error(agent: Agent, make: Make):
    one = await make('say "When?"\nexpect "MONDAY to friday"\nexpect "Sunday" within 0.1 s')
    assert [(found["text"], found["came"]) for found in details(one, "expected")] == [
        ("MONDAY to friday", True),
        ("Sunday", False),
    ]
    assert texts(one, "error")[0].startswith("expected 'Sunday'")


async def test_steps_after_the_end_of_the_phone_call_are_an_error(agent: Agent, make: Make):
    async def end(talk: Talk, prompt: str) -> None:
        await talk.send(type="end")

    agent.on_prompt = end
    one = await make('say "Hello"\nsay "Hello?"\nhang up')
    assert texts(one, "error") == ['the phone call was over before the step: say "Hello?"']


async def test_twiml_with_mistakes_is_reported(agent: Agent, make: Make):
    agent.attributes["dtmf_detection"] = "true"
    one = await make(f"press 1 at once\n{ASK}")
    assert texts(one, "warning") == ["12200: <ConversationRelay> has no attribute 'dtmf_detection': it is ignored"]
    assert agent.received("dtmf") == []


async def test_a_webhook_that_fails_ends_the_phone_call(agent: Agent, make: Make):
    agent.voice_status = 500
    one = await make(ASK)
    assert texts(one, "error")[0].startswith("11200: ")
    assert texts(one, "error")[1].startswith("the phone call was over before the step")
    assert agent.form("/phone/status")["CallStatus"] == "completed"


async def test_a_number_without_an_agent_is_rejected(agent: Agent, make: Make):
    agent.rejects = True
    one = await make(ASK)
    assert one.phone_call.status == "busy"
    assert texts(one, "warning") == ["the server rejects the phone call: it has no agent for +15550100002"]


async def test_a_server_that_is_not_there_is_an_error(agent: Agent, make: Make):
    agent.url = "http://127.0.0.1:9"
    one = await make(ASK)
    assert "cannot be reached" in texts(one, "error")[0]


async def test_the_fallback_url_is_asked_where_the_webhook_does_not_answer(agent: Agent):
    nowhere = "http://127.0.0.1:1/phone/voice"
    plan = Plan(parse(ASK), nowhere, fallback_url=f"{agent.url}/phone/voice", account=Account(token=TOKEN), speed=SPEED)
    [one] = await simulate(plan)
    assert not one.log.of("error")
    assert turns_of(one.log.events)[0].is_answered
    form = agent.form("/phone/voice")
    assert (form["ErrorCode"], form["ErrorUrl"]) == ("11200", nowhere)


async def test_a_socket_that_is_refused_is_an_error_and_an_action(agent: Agent, make: Make):
    agent.public = "http://127.0.0.1:9"
    agent.action = f'action="{agent.url}/phone/action"'
    one = await make(ASK)
    assert texts(one, "error")[0].startswith("64102: unable to connect")
    assert agent.form("/phone/action")["ErrorCode"] == "64102"


async def test_a_wrong_token_is_noticed_by_the_server(agent: Agent, make: Make):
    await make(ASK, account=Account(token="another"))
    assert agent.unsigned[0] == f"{agent.url}/phone/voice"
    assert agent.frames == []


async def test_the_simulator_plays_the_tunnel_to_a_public_address(agent: Agent, make: Make):
    agent.public = "https://phone.example.com"
    account = Account(token=TOKEN, public_url=agent.public, local_url=agent.url)
    plan = Plan(parse(ASK), f"{agent.public}/phone/voice", f"{agent.public}/phone/status", account=account, speed=SPEED)
    [one] = await simulate(plan)
    assert (one.log.of("error"), agent.unsigned) == ([], [])
    assert {headers["host"] for headers in agent.headers} == {"phone.example.com"}
    assert {headers["x-forwarded-proto"] for headers in agent.headers} == {"https"}
    assert turns_of(one.log.events)[0].heard == LONG


async def test_fifty_phone_calls_at_once(agent: Agent, make: Make):
    plan = Plan(
        parse('say "When?"\nhang up'),
        f"{agent.url}/phone/voice",
        account=Account(token=TOKEN),
        speed=SPEED,
        phone_calls=50,
    )
    found = await simulate(plan)
    summary = summarize([one.log for one in found], SPEED)
    assert (summary.phone_calls, summary.turns, summary.errors) == (50, 50, 0)
    assert len({frame["callSid"] for frame in agent.received("setup")}) == 50
    assert len({frame["from"] for frame in agent.received("setup")}) == 50


async def test_a_seed_repeats_what_the_server_receives(agent: Agent, make: Make, monkeypatch: pytest.MonkeyPatch):
    # A frame waits so long for the next one to overtake it. On a busy machine the next one takes longer than 5 ms.
    monkeypatch.setattr(network, "HELD_SECONDS", SPEED * 0.5)

    def received() -> list[tuple[str, object]]:
        texts = [(frame["type"], frame.get("voicePrompt") or frame.get("digit")) for frame in agent.frames]
        agent.frames.clear()
        return texts

    script = f"network doubled 30%\nnetwork reordered 20%\npress 12345 at once\n{ASK}"
    agent.attributes["dtmfDetection"] = "true"
    runs = []
    for seed in (1, 1, 2):
        await make(script, seed=seed)
        runs.append(received())
    assert runs[0] == runs[1] != runs[2]


async def test_watchers_see_the_events_as_they_happen(agent: Agent, make: Make):
    seen: list[Event] = []
    plan = Plan(parse(ASK), f"{agent.url}/phone/voice", account=Account(token=TOKEN), speed=SPEED)
    [one] = await simulate(plan, lambda _, event: seen.append(event))
    assert seen == one.log.events


async def run(*arguments: str) -> int:
    """Run the program in another thread, with its own event loop."""
    async with asyncio.timeout(30):
        return await asyncio.to_thread(main, [*arguments])


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("COLUMNS", "150")


async def test_the_program_shows_the_talk_and_says_that_it_is_simulated(agent: Agent, tmp_path: Path):
    script = tmp_path / "talk.txt"
    script.write_text(BARGE)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simulator.twilio", script),
        *("--url", f"{agent.url}/phone/voice", "--speed", str(SPEED)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = (text.decode() for text in await asyncio.wait_for(process.communicate(), 30))
    assert (process.returncode, err) == (0, "")
    assert "Speech-to-text and the voice are modelled" in out
    order = ["caller   Tell me all.", "agent    We are open", "the caller's voice interrupts", "caller   Stop, please"]
    assert [line for line in order if line in out] == order
    assert sorted(order, key=out.index) == order


async def test_the_program_prints_json_only(agent: Agent, capsys: pytest.CaptureFixture[str]):
    code = await run("hours", "--url", f"{agent.url}/phone/voice", "--speed", str(SPEED), "--json")
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (code, printed.err, found["simulated"]) == (0, "", True)
    assert "modelled" in found["about"]
    assert found["summary"]["turns"] == 3
    assert [turn["heard"] for turn in found["phone_calls"][0]["turns"]] == [LONG] * 3


async def test_the_exit_code_says_whether_there_were_errors(capsys: pytest.CaptureFixture[str]):
    assert await run("hours", "--url", "http://127.0.0.1:9/phone/voice", "--speed", str(SPEED)) == 1
    assert "cannot be reached" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        await run("hours", "--number", "reception")
    assert "must be a number such as +15550100001" in capsys.readouterr().err
    assert await run("no-such-script") == 2
    assert capsys.readouterr().err.startswith("simulator: 'no-such-script' is neither a file nor")


async def test_the_program_lists_its_scripts(capsys: pytest.CaptureFixture[str]):
    assert await run("--scripts") == 0
    out = capsys.readouterr().out
    assert "barge-in" in out
    assert "barge in after N s" in out
