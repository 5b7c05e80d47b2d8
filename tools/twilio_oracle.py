"""Compare the phone calls of Parley and of its simulator with Twilio Agent Connect, in both directions.

`.venv/bin/python tools/twilio_oracle.py`: the simulator calls Agent Connect's server; then its models and its TwiML
generator and Parley's read what the other writes. Prints a table; the exit code is 1 if something differs that is not
in `KNOWN`, or no longer differs. Agent Connect is not a dependency: BENCH_AGENT_CONNECT_PYTHON names the Python of an
environment that has `twilio-agent-connect[server]`.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from rich.text import Text  # noqa: E402

from parley.domain.phone import frames, twiml  # noqa: E402
from parley.domain.phone.settings import (  # noqa: E402
    NumberSettings,
    SpokenLanguage,
    language_attributes,
    relay_attributes,
)
from parley.process import leave  # noqa: E402
from simulator.twilio import frames as simulated  # noqa: E402
from simulator.twilio import twiml as simulated_twiml  # noqa: E402
from simulator.twilio.line import ACCOUNT_SID, AUTH_TOKEN, Account  # noqa: E402
from simulator.twilio.script import parse  # noqa: E402
from simulator.twilio.simulation import Plan, Simulated, simulate  # noqa: E402

PYTHON = "BENCH_AGENT_CONNECT_PYTHON"
PROGRAM = Path(__file__).with_name("twilio_agent_connect.py")
DOMAIN = "phone.example.com"
START_SECONDS, READ_SECONDS = 60, 60
# With this seed the interruptions after the greeting have a duration in each of Twilio's three forms.
SEED, SPEED = 5, 4.0

TALK = """
barge in after 0.5 s with "Hello, I have a question."
say "When do you open?"
barge in after 1 s with "And on Sunday?"
barge in after 1 s with "And on Monday?"
barge in after 1 s with "Grüße, and on Tuesday?"
wait until quiet
press 1*#
error "Twilio could not speak"
say "Thank you."
wait until quiet
hang up
"""
PARTIAL = """
say "Hello."
wait until quiet
partial "When do you"
wait 3 s
hang up
"""
HANDOVER = """
say "I want to talk to a person."
expect end
"""

GREETING, PARTIALLY = "an interruption of the greeting", "a partial prompt"
FRACTION = "an interruption, its duration a fraction"
CUT, METHOD = "the last words of its server", "the method of <Connect>"
KNOWN = {
    FRACTION: "its model takes an integer, and its server loses the interruption",
    GREETING: "its server has no conversation before the first prompt, and skips the interruption",
    PARTIALLY: "its server answers what is not yet said: it reads `final`, and ConversationRelay sends `last`",
    CUT: "its server sends `end` with them, so that the caller does not hear them",
    METHOD: "its generator writes none. Twilio's default is POST, which Parley writes",
}
# What is in ConversationRelay's documentation, and of which the package has nothing to compare with.
ABSENT = (
    "play, sendDigits and language of a server, and dtmf, error and info of Twilio: the package has no model of them"
)

ATTRIBUTES: Mapping[str, twiml.Attribute] = {
    "url": f"wss://{DOMAIN}/phone/relay",
    "welcomeGreeting": 'Hello & "welcome" <all>!',
    "welcomeGreetingInterruptible": "speech",
    "language": "en-US",
    "ttsLanguage": "en-GB",
    "transcriptionLanguage": "multi",
    "ttsProvider": "ElevenLabs",
    "voice": "Joanna-Neural",
    "transcriptionProvider": "Deepgram",
    "speechModel": "nova-3-general",
    "interruptible": "dtmf",
    "reportInputDuringAgentSpeech": "any",
    "preemptible": True,
    "dtmfDetection": True,
    "partialPrompts": False,
    "hints": "Parley,Temporal",
    "events": "speaker-events tokens-played",
    "elevenlabsTextNormalization": "auto",
    "interruptSensitivity": "low",
}
SETTINGS = NumberSettings(
    voice="Joanna-Neural",
    tts_provider="Amazon",
    transcription_provider="Deepgram",
    speech_model="nova-3-general",
    hints=("Parley", "Köln"),
    languages=(
        SpokenLanguage(code="de-DE", tts_provider="Google", voice="de-DE-Neural2-A", transcription_provider="Google"),
        SpokenLanguage(code="es-MX", speech_model="telephony"),
    ),
)

Event = dict[str, Any]


@dataclass
class Check:
    """One thing that is compared. `times`: how often. `problems`: what differed."""

    what: str
    times: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, problems: Iterable[str]) -> None:
        self.times += 1
        self.problems.extend(problems)

    @property
    def is_expected(self) -> bool:
        """Whether the two agree, or differ as is known. What never happened is compared with nothing."""
        return self.times > 0 and bool(self.problems) == (self.what in KNOWN)

    @property
    def result(self) -> str:
        if not self.times:
            return "DIFFERS: it did not happen"
        if self.what not in KNOWN:
            return "DIFFERS: " + "; ".join(dict.fromkeys(self.problems)) if self.problems else "agrees"
        return f"known: {KNOWN[self.what]}" if self.problems else f"AGREES, and is in KNOWN: {KNOWN[self.what]}"


def main() -> int:
    python = os.environ.get(PYTHON)
    if not python:
        sys.stderr.write(
            f"{PYTHON} is not set: it names the Python of an environment with `twilio-agent-connect[server]` "
            "(see docs/development.md)\n"
        )
        return 2
    version, models = check_models(python)
    parts = {
        "The simulator calls Agent Connect's server": asyncio.run(check_server(python)),
        "Agent Connect's models and generator, and Parley's": models,
    }
    console = Console(highlight=False, width=max(Console().width, 120))
    console.print(f"Twilio Agent Connect {version}")
    for title, checks in parts.items():
        console.print(_table(title, checks))
    console.print(f"Not compared: {ABSENT}.")
    differing = [one.what for checks in parts.values() for one in checks if not one.is_expected]
    console.print(f"{len(differing)} unknown differences" + "".join(f"\n  {what}" for what in differing), markup=False)
    return 1 if differing else 0


def _table(title: str, checks: Iterable[Check]) -> Table:
    table = Table("what", "times", "result", title=title, title_justify="left")
    for one in checks:
        table.add_row(Text(one.what), str(one.times), Text(one.result))
    return table


# The simulator against its server


async def check_server(python: str) -> list[Check]:
    async with _serving(python) as (port, events):
        talk = await _call(port, TALK)
        after_talk = len(events)
        partial = await _call(port, PARTIAL)
        after_partial = len(events)
        handed_over = await _call(port, HANDOVER)
    calls = [
        Heard(talk, events[:after_talk]),
        Heard(partial, events[after_talk:after_partial]),
        Heard(handed_over, events[after_partial:]),
    ]
    checks = Checks()
    for call in calls:
        call.check(checks)
    return checks.in_order


@asynccontextmanager
async def _serving(python: str) -> AsyncGenerator[tuple[int, list[Event]]]:
    """Its server: the port, and what it has seen until now."""
    process = await asyncio.create_subprocess_exec(
        python, str(PROGRAM), "serve", stdout=subprocess.PIPE, env=_environment(), limit=2**20
    )
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    events: list[Event] = []
    try:
        async with asyncio.timeout(START_SECONDS):
            first = json.loads(await process.stdout.readline() or "{}")
        if "port" not in first:
            sys.exit("Agent Connect's server does not start")
        reading = asyncio.ensure_future(_read_events(process.stdout, events))
        yield first["port"], events
        process.terminate()
        await reading
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _read_events(stream: asyncio.StreamReader, events: list[Event]) -> None:
    async for line in stream:
        events.append(json.loads(line))


def _environment() -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TWILIO_", "TAC_"))}
    return others | {"ORACLE_ACCOUNT_SID": ACCOUNT_SID, "ORACLE_AUTH_TOKEN": AUTH_TOKEN, "ORACLE_DOMAIN": DOMAIN}


async def _call(port: int, script: str) -> Simulated:
    """One phone call through a tunnel, so that the server checks signatures of its public address."""
    public, local = f"https://{DOMAIN}", f"http://127.0.0.1:{port}"
    account = Account(public_url=public, local_url=local)
    plan = Plan(
        parse(script),
        f"{public}/twiml",
        status_url=f"{public}/twilio/call-events/status",
        account=account,
        seed=SEED,
        speed=SPEED,
    )
    made = await simulate(plan)
    return made[0]


class Checks:
    """Checks by what they compare, those that must happen in a simulation first."""

    def __init__(self) -> None:
        self._by_name = {name: Check(name) for name in SERVER_CHECKS}

    def add(self, what: str, problems: Iterable[str] = ()) -> None:
        self._by_name[what].add(problems)

    @property
    def in_order(self) -> list[Check]:
        return list(self._by_name.values())


WEBHOOK, ITS_TWIML, ACTION, STATUS = "the webhook", "its TwiML", "the action callback", "the status callback"
TEXT, END, ENDED, QUIET = "text of its server", "end of its server, with hand-off data", "the end", "warnings, errors"
FORMS = {int: "an interruption, its duration an integer", str: "an interruption, its duration a text", float: FRACTION}
SERVER_CHECKS = (
    *(WEBHOOK, ITS_TWIML, "setup", "prompt", PARTIALLY, *FORMS.values(), GREETING, "dtmf", "error", "info"),
    *(TEXT, END, CUT, ACTION, STATUS, ENDED, QUIET),
)


class Heard:
    """One phone call as the simulator made it, and as the server saw it."""

    def __init__(self, made: Simulated, events: list[Event]) -> None:
        self._dialled, self._log, self._events = made.phone_call.dialled, made.log, events

    def check(self, checks: Checks) -> None:
        self._check_requests(checks)
        self._check_received(checks)
        self._check_sent(checks)
        said = [event.details["text"] for event in self._log.of("warning", "error")]
        if any(event.details["status"] == "ended" for event in self._log.of("ended")):
            checks.add(CUT, [text for text in said if text.startswith(CUT_OFF)])
        said = [text for text in said if not text.startswith(CUT_OFF)]
        # A warning that follows a frame is a problem of that frame.
        warned = [one["text"] for one in self._until_first_frame if one["event"] == "warning"]
        checks.add(QUIET, [*said, *warned])

    @property
    def _until_first_frame(self) -> list[Event]:
        names = [event["event"] for event in self._events]
        return self._events[: names.index("received")] if "received" in names else self._events

    def _of(self, name: str) -> list[Event]:
        return [event for event in self._events if event["event"] == name]

    def _check_requests(self, checks: Checks) -> None:
        dialled = self._dialled
        wanted = {"CallSid": dialled.sid, "From": dialled.caller, "To": dialled.number, "Direction": "inbound"}
        for one in self._of("request"):
            checks.add(WEBHOOK, _differences(wanted, one["fields"]))
            checks.add(ITS_TWIML, _differences(one["options"], self._options))
        for one in self._of("callback"):
            known = {name: value for name, value in one["form"].items() if name in one.get("fields", {})}
            missing = {"SessionId", "SessionStatus", "SessionDuration", *wanted} - set(known)
            checks.add(ACTION, [*_read_problems(known, one), *(f"{name}: not read" for name in sorted(missing))])
        for one in self._of("status"):
            checks.add(STATUS, _differences({"CallSid": dialled.sid, "CallStatus": "completed"}, one["fields"]))
        ended = [one["call_sid"] for one in self._of("ended")]
        checks.add(ENDED, [] if ended == [dialled.sid] else [f"the conversations {ended} ended"])

    @property
    def _options(self) -> dict[str, Any]:
        """What the simulator and the setup frame made of the options of the server's TwiML."""
        setup = next((one["frame"] for one in self._of("received") if one["frame"]["type"] == "setup"), {})
        greetings = [event.details["text"] for event in self._log.of("greeting")]
        return {"greeting": "".join(greetings), "parameters": setup.get("customParameters")}

    # What the server received

    def _check_received(self, checks: Checks) -> None:
        received = list(self._with_effects())
        was_prompted = False
        for one, effects in received:
            frame = one["frame"]
            what = self._name_of(frame, was_prompted=was_prompted)
            was_prompted = was_prompted or frame["type"] == "prompt"
            warnings = [effect["text"] for effect in effects if effect["event"] == "warning"]
            checks.add(what, [*_handling(one, effects), *warnings])
        sent = [self._sent(event.kind, event.details) for event in self._log.of(*KINDS)]
        found = [one["frame"] for one, _ in received if one["frame"]["type"] in {"prompt", "interrupt", "dtmf"}]
        if sent != found:
            checks.add(QUIET, [f"the simulator notes {sent}, and the server receives {found}"])

    def _with_effects(self) -> Iterator[tuple[Event, list[Event]]]:
        """What was received, each with what the server did before it read the next."""
        starts = [at for at, event in enumerate(self._events) if event["event"] == "received"]
        for start, end in zip(starts, [*starts[1:], len(self._events)], strict=True):
            yield self._events[start], self._events[start + 1 : end]

    def _name_of(self, frame: Event, *, was_prompted: bool) -> str:
        match frame["type"]:
            case "prompt":
                return "prompt" if frame["last"] else PARTIALLY
            case "interrupt":
                return FORMS[type(frame["durationUntilInterruptMs"])] if was_prompted else GREETING
            case other:
                return other

    def _sent(self, kind: str, details: Event) -> Event:
        match kind:
            case "key":
                return simulated.key(details["digit"])
            case "interrupt":
                return simulated.interrupt(details["heard"], details["duration"])
            case _:
                return simulated.prompt(details["text"], "en-US", last=kind == "said")

    # What the server sent

    def _check_sent(self, checks: Checks) -> None:
        for one in self._of("sent"):
            is_end = json.loads(one["frame"])["type"] == "end"
            checks.add(END if is_end else TEXT, both_read(one["frame"]))
        handed_over = [event.details["handoff_data"] for event in self._log.of("ended")]
        for one in self._of("callback"):
            wanted = next((data for data in handed_over if data), None)
            if one["form"].get("HandoffData") != wanted:
                checks.add(END, [f"the action callback brings {one['form'].get('HandoffData')!r}, not {wanted!r}"])


CUT_OFF = "`end` cuts off"
KINDS = ("said", "partial", "interrupt", "key")


def _handling(received: Event, effects: list[Event]) -> list[str]:
    """What is wrong in how the server took a frame."""
    frame, named = received["frame"], [effect["event"] for effect in effects]
    match frame["type"]:
        case "setup":
            return _read_problems(frame, received)
        case "prompt":
            texts = [effect["text"] for effect in effects if effect["event"] == "prompt"]
            wanted = [frame["voicePrompt"]] if frame["last"] else []
            return _read_problems(frame, received) + ([] if texts == wanted else [f"it answers {texts}, not {wanted}"])
        case "interrupt":
            return _read_problems(frame, received) + ([] if "interrupt" in named else ["the interruption is lost"])
        case other:
            skipped = [effect["type"] for effect in effects if effect["event"] == "skipped"]
            return [] if skipped == [other] else [f"it is not skipped: {named}"]


def _read_problems(wanted: Mapping[str, Any], read: Event) -> list[str]:
    if "refused" in read:
        return [read["refused"]]
    return _differences(wanted, read["fields"])


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """The fields that differ. A duration is a number in whatever form it is sent."""
    return [
        f"{name}: {value!r} is read as {found.get(name)!r}"
        for name, value in wanted.items()
        if not (name in found and (found[name] == value or _is_same_number(name, value, found[name])))
    ]


def _is_same_number(name: str, one: Any, other: Any) -> bool:
    return name == "durationUntilInterruptMs" and other is not None and float(one) == float(other)


def both_read(frame: str) -> list[str]:
    """What is wrong in how the simulator and Parley read a frame of a server. Both must find all of it."""
    given = json.loads(frame)
    try:
        read, unknown = simulated.read_frame(frame)
    except simulated.Malformed as problem:
        return [f"malformed: {problem}"]
    model = {simulated.Text: frames.Text, simulated.End: frames.End}[type(read)]
    written = json.loads(model.model_validate_json(frame).wire())
    return [f"unknown: {name}" for name in unknown] + _differences(given, written)


# The models and the generators


def check_models(python: str) -> tuple[str, list[Check]]:
    """Its version, and what the two make of each other's frames and TwiML."""
    end = frames.End(handoff_data=json.dumps({"reason": "transfer", "said": "„Grüße“"}, ensure_ascii=False))
    documents = {
        "Parley's TwiML of a number with all its settings": _document(
            relay_attributes(SETTINGS, f"wss://{DOMAIN}/phone/relay", greet=True)
        ),
        "each attribute of <ConversationRelay> that Parley knows": _document(ATTRIBUTES),
    }
    found = _ask(python, {"end": end.wire(), "twiml": documents})
    checks = [_check_frame(name, frame) for name, frame in found["frames"].items()]
    checks.append(_checked("Parley's end", _read_problems(json.loads(end.wire()), found["end"])))
    checks.append(_checked("its end", both_read(found["own end"])))
    methods = Check(METHOD)
    for name, document in documents.items():
        problems = _compare(document, found["twiml"][name])
        methods.add(one for one in problems if one.startswith(CONNECT_METHOD))
        checks.append(_checked(name, [one for one in problems if not one.startswith(CONNECT_METHOD)]))
    without = twiml.ATTRIBUTES["ConversationRelay"] - set(ATTRIBUTES)
    checks[-1].problems.extend(f"{name} has no example" for name in sorted(without))
    checks += [methods, _check_its_twiml(found["own twiml"])]
    return found["version"], checks


def _ask(python: str, given: dict[str, Any]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [python, str(PROGRAM), "read"],
            input=json.dumps(given),
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
            timeout=READ_SECONDS,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as problem:
        sys.exit(f"{PYTHON}: {python} cannot load Agent Connect (see docs/development.md): {problem}")
    return json.loads(done.stdout)


def _checked(what: str, problems: Iterable[str]) -> Check:
    check = Check(what)
    check.add(problems)
    return check


def _check_frame(name: str, frame: str) -> Check:
    """Parley reads one of its frames: each field as it is, and null as what is not there."""
    given = json.loads(frame)
    known = {key: value for key, value in given.items() if value is not None}
    try:
        read, without = frames.read_frame(frame), frames.read_frame(json.dumps(known))
    except frames.MalformedFrame as problem:
        return _checked(f"its {name}", [f"Parley refuses it: {problem}"])
    problems = _differences(known, read.model_dump(by_alias=True))
    return _checked(f"its {name}", problems + ([] if read == without else ["null is not as if it were not there"]))


def _document(attributes: Mapping[str, twiml.Attribute]) -> str:
    session = twiml.relay(
        attributes,
        languages=[language_attributes(one) for one in SETTINGS.languages],
        parameters={"customer": "a & <b>", "Größe": "7"},
    )
    return twiml.response(twiml.connect(session, action=f"https://{DOMAIN}/phone/action"))


CONNECT_METHOD = "Connect method"


def _compare(document: str, rewritten: Event) -> list[str]:
    """How the TwiML that its generator writes for the same options differs."""
    if "refused" in rewritten:
        return [rewritten["refused"]]
    ours, theirs = (list(ElementTree.fromstring(one).iter()) for one in (document, rewritten["twiml"]))  # noqa: S314
    if (tags := [one.tag for one in ours]) != (others := [one.tag for one in theirs]):
        return [f"elements {tags}, and {others}"]
    return [
        f"{one.tag} {name}: {one.get(name)!r}, and {other.get(name)!r}"
        for one, other in zip(ours, theirs, strict=True)
        for name in sorted({*one.keys(), *other.keys()})
        if one.get(name) != other.get(name)
    ]


def _check_its_twiml(document: str) -> Check:
    """The simulator reads TwiML with each of its options, and finds all of them."""
    read = simulated_twiml.read(document)
    noun = read.verbs[0].children[0]
    written = {name: value for one in ElementTree.fromstring(document).iter(noun.name) for name, value in one.items()}  # noqa: S314
    children = [child.name for child in noun.children]
    problems = [*read.warnings, *_differences(written, noun.attributes)]
    return _checked(
        "its TwiML, in the simulator", problems + ([] if children == ["Language", "Parameter"] else children)
    )


if __name__ == "__main__":
    leave(main())
