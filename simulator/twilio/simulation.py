"""Runs phone calls to a server: one, or many at once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from uuid import uuid4

import httpx2

from simulator.twilio.clock import Clock
from simulator.twilio.line import Account, Line, new_client
from simulator.twilio.log import CallLog, Event
from simulator.twilio.person import Person
from simulator.twilio.phone_call import Dialled, PhoneCall
from simulator.twilio.script import Script
from simulator.twilio.session import SessionSettings
from simulator.twilio.speech import VoiceSettings

CALLER, NUMBER = "+15550100001", "+15550100002"
# Between the beginnings of phone calls that are made at once, so that they do not speak in chorus.
STAGGER_SECONDS = 0.05

Watch = Callable[["Simulated", Event], None]


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        voice_url: the webhook. status_url: the status callback, or None. fallback_url: see `Dialled`.
        number: the number that is called; the script may name another.
        seed: chooses forms, delays and orders: the same seed repeats them.
        run: a name that no other simulation has: CallSids are made of it.
        speed: see `Clock`.
    """

    script: Script
    voice_url: str
    status_url: str | None = None
    fallback_url: str | None = None
    account: Account = field(default_factory=Account)
    caller: str = CALLER
    number: str = NUMBER
    phone_calls: int = 1
    seed: int = 7
    speed: float = 1.0
    run: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True)
class Simulated:
    """A phone call and its log."""

    number: int
    phone_call: PhoneCall
    log: CallLog


async def simulate(plan: Plan, watch: Watch | None = None) -> list[Simulated]:
    """Make the phone calls of a plan, all at once. `watch` is called with each event."""
    async with new_client() as client:
        made = [_make(plan, number, client, watch) for number in range(plan.phone_calls)]
        await asyncio.gather(*(_hold(one, plan.script) for one in made))
    return made


def session_settings(script: Script, seed: int) -> SessionSettings:
    """The voice and the network of a script."""
    usual = VoiceSettings()
    voice = VoiceSettings(
        script.characters_per_second or usual.characters_per_second,
        usual.latency if script.latency is None else script.latency,
    )
    return SessionSettings(seed=seed, voice=voice, network=script.network)


def sid(prefix: str, *key: object) -> str:
    """An identifier in Twilio's form, a pure function of the key."""
    return prefix + sha256(repr(key).encode()).hexdigest()[:32]


def _make(plan: Plan, number: int, client: httpx2.AsyncClient, watch: Watch | None) -> Simulated:
    script, seed, clock = plan.script, plan.seed * 1000 + number, Clock(plan.speed)
    caller = script.caller or plan.caller
    # Each of many callers has a number of their own: servers limit what one number may do.
    caller = f"{caller[:-3]}{(int(caller[-3:]) + number) % 1000:03}" if number else caller
    log = CallLog(clock, (lambda event: watch(made, event)) if watch else None)
    dialled = Dialled(
        sid=sid("CA", plan.run, number),
        caller=caller,
        number=script.number or plan.number,
        voice_url=plan.voice_url,
        status_url=plan.status_url,
        fallback_url=plan.fallback_url,
        callbacks=script.callbacks,
        seed=seed,
        session=session_settings(script, seed),
    )
    made = Simulated(number, PhoneCall(dialled, Line(plan.account, client), log, clock), log)
    return made


async def _hold(one: Simulated, script: Script) -> None:
    await asyncio.sleep(one.number * STAGGER_SECONDS)
    await hold(one.phone_call, script)


async def hold(phone_call: PhoneCall, script: Script) -> None:
    """Hold a phone call with a person who follows the script."""
    async with asyncio.TaskGroup() as both:
        both.create_task(phone_call.run(script.answer))
        both.create_task(Person(phone_call, script).act())


def outbound(dialled: Dialled, script: Script) -> Dialled:
    """The same phone call as the script wants it."""
    return replace(dialled, callbacks=script.callbacks, session=session_settings(script, dialled.seed))
