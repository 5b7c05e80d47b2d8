"""Phone calls while workers and gateways are killed with kill -9, at moments that a seed decides.

Two workers and two gateways run, behind a front that plays the load balancer of an installation; one that is killed is
started again. No phone call may be lost, no turn charged twice, and the ledger agrees with the provider.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - the moments of the kills are random
from typing import Any
from urllib.parse import urlsplit

from benchmarks.calling.callers import NUMBER, Callers, script
from benchmarks.faults.load import Load
from benchmarks.faults.stage import stage
from benchmarks.options import Figures
from benchmarks.stack import say
from parley.cli.billed import read_billed
from parley.client.phone import user_of
from parley.domain.conversation.contract import Ended, turn_job_id
from parley.domain.generate.contract import job_key
from parley.domain.phone.contract import PhoneTurn
from parley.domain.phone.settings import Phrases
from simulator.twilio.script import Script
from simulator.twilio.simulation import Simulated
from simulator.twilio.summary import Turn, repetitions, summarize, turns_of
from tests.faults.gateways import start_gateway
from tests.faults.scene import Scene

TOKEN = "0123456789abcdef0123456789abcdef"
EACH = 2
DEADLINES = {"silence": 60}
# A turn of a phone call is free for its caller, unless it has the action of a message.
CHARGED = {"action": "ai_message"}
# Between two kills, after the killed process has started again.
LEAST_SECONDS, MOST_SECONDS = 2.0, 8.0
# Long enough that callers still talk at the last kill.
TURNS = 16
FIRST_TOKEN_SECONDS, SIGMA, TOKENS_PER_SECOND = 0.4, 0.35, 60


# What a caller reports who could not say all. Other errors are those of a gateway that was killed while it was asked.
LOST = "the phone call was over before"


class Front:
    """Forwards each connection to a gateway that lives. A connection to one that dies ends."""

    def __init__(self) -> None:
        self.gateways: list[str] = []
        self._next = 0

    async def start(self) -> str:
        """Listen; returns the address."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2 * EACH):
            self._next += 1
            target = urlsplit(self.gateways[self._next % len(self.gateways)])
            try:
                far_reader, far_writer = await asyncio.open_connection(target.hostname, target.port)
            except OSError:
                continue
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
            return
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        writer.transport.abort()
    writer.close()


@dataclass
class Calling:
    """The processes of the phone calls. `hits`: how many kills came while callers talked."""

    place: Scene
    random: Random
    front: Front = field(default_factory=Front)
    workers: list[asyncio.subprocess.Process] = field(default_factory=list[asyncio.subprocess.Process])
    gateways: list[asyncio.subprocess.Process] = field(default_factory=list[asyncio.subprocess.Process])
    hits: int = 0

    async def start(self) -> str:
        """Start everything; returns the address that Twilio knows."""
        url = await self.front.start()
        self.place.environment |= {"TWILIO_AUTH_TOKEN": TOKEN, "PARLEY_PHONE_PUBLIC_URL": url}
        self.workers = list(await asyncio.gather(*(self.place.start_worker() for _ in range(EACH))))
        for _ in range(EACH):
            process, gateway = await self._gateway()
            self.gateways.append(process)
            self.front.gateways.append(gateway)
        return url

    async def talk(self, scripts: Sequence[Script], url: str, kills: Sequence[str]) -> list[Simulated]:
        """Hold the phone calls, under these kills."""
        async with asyncio.TaskGroup() as both:
            talking = both.create_task(Callers(url, TOKEN).hold(scripts, self.random))
            both.create_task(self._kill(kills, talking))
        return talking.result()

    async def _kill(self, kills: Sequence[str], talking: "asyncio.Task[Any]") -> None:
        """Kill a `worker` or a `gateway`, in this order, and start it again."""
        for number, kill in enumerate(kills, start=1):
            await asyncio.sleep(self.random.uniform(LEAST_SECONDS, MOST_SECONDS))
            self.hits += not talking.done()
            say(f"kill {number} of {len(kills)}: a {kill}{' after the last phone call' if talking.done() else ''}")
            place = self.random.randrange(EACH)
            if kill == "worker":
                await _killed(self.workers[place])
                self.workers[place] = await self.place.start_worker()
            else:
                await _killed(self.gateways[place])
                self.gateways[place], self.front.gateways[place] = await self._gateway()

    async def _gateway(self) -> tuple[asyncio.subprocess.Process, str]:
        return await start_gateway(self.place, f"gateway-{len(self.place.processes)}")


async def _killed(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


async def under_kills(calls: int, kills: Sequence[str], seed: int) -> tuple[Figures, dict[str, int]]:
    """Hold phone calls under these kills; returns the figures, and what must be 0."""
    async with stage(lambda client: Load(client, jobs=0), None, seed) as running:
        place, rng = running.place, Random(seed)
        place.environment["PARLEY_STARTING_ENERGY"] = "1000000"
        limits = {"workspace_concurrent": None}
        await place.client.phone.set_number(NUMBER, {"limits": limits, "deadlines": DEADLINES, **CHARGED})
        await place.simulator.post(
            "latency", median=FIRST_TOKEN_SECONDS, sigma=SIGMA, tokens_per_second=TOKENS_PER_SECOND
        )
        calling = Calling(place, rng)
        url = await calling.start()
        held = await calling.talk([script(rng, TURNS) for _ in range(calls)], url, kills)
        calling.front.close()
        figures, faults = await _found(place, held)
    name = f"{calls} phone calls under {len(kills)} kills"
    return {name: {"kills while callers talked": calling.hits, **figures}}, faults


async def _found(place: Scene, held: Sequence[Simulated]) -> tuple[dict[str, Any], dict[str, int]]:
    await place.sweep()
    summary = summarize([one.log for one in held])
    calls = {call.call_sid: call for call in await place.client.phone.calls(limit=2 * len(held))}
    stored = {call_sid: await place.client.phone.turns(call_sid) for call_sid in calls}
    charges = [await _charges(place, one, stored.get(one.phone_call.dialled.sid, ())) for one in held]
    energies = [energy for call in charges for energy in call]
    said = [turn for one in held for turn in turns_of(one.log.events)]
    kept = [turn for turns in stored.values() for turn in turns]
    gaps = sorted((gap for turn in said for gap in turn.gaps), reverse=True)
    path = place.directory / "billed.json"
    path.write_text(json.dumps(await place.simulator.billed()), encoding="utf-8")
    figures = {
        "prompts of callers": len(said),
        "turns that are stored": len(kept),
        "turns with an error": {error: sum(turn.error == error for turn in kept) for error in {t.error for t in kept}},
        "errors that Twilio would log": sum(len(_errors(one)) for one in held),
        "sessions of ConversationRelay": sum(call.sessions for call in calls.values()),
        "first text, ms": {"p50": summary.first_text_ms.p50 or 0, "p95": summary.first_text_ms.p95 or 0},
        "silences in an answer of 500 ms and more": len(gaps),
        "the longest ones, s": str(gaps[:5]),
        "repeated words": str(sorted(words for turn in said for words in _repeated(turn, kept))[:5]),
    }
    faults = {
        "phone calls that were lost": sum(any(LOST in error for error in _errors(one)) for one in held),
        "phone calls that go on": sum(call.ended_at is None for call in calls.values()),
        "turns that are charged twice": sum(energy > 1 for energy in energies),
        "answered turns that are not charged": _uncharged(stored, held, charges),
        "audit findings": len(audited := await place.client.audit(read_billed(path))),
    }
    for finding in audited[:5]:
        say(str(finding))
    for one in held:
        for error in _errors(one):
            say(f"{one.phone_call.dialled.sid}: {error}")
    return figures, faults


def _errors(one: Simulated) -> list[str]:
    return [event.details["text"] for event in one.log.of("error")]


def _repeated(turn: Turn, kept: Sequence[PhoneTurn]) -> list[str]:
    """Words that the caller heard twice, and that are not twice in the answer itself."""
    answers = [one.answer or "" for one in kept if one.text == turn.said]
    spoken = turn.answer
    for phrase in (Phrases().reconnected, Phrases().filler, Phrases().slow):
        spoken = spoken.replace(phrase, "")
    return [words for words in repetitions(spoken) if not any(words in repetitions(answer) for answer in answers)]


def _uncharged(
    stored: Mapping[str, Sequence[PhoneTurn]], held: Sequence[Simulated], charges: Sequence[Sequence[int]]
) -> int:
    return sum(
        turn.outcome is Ended.COMPLETED and not turn.cached and not energy
        for one, energies in zip(held, charges, strict=True)
        for turn, energy in zip(stored.get(one.phone_call.dialled.sid, ()), energies, strict=True)
    )


async def _charges(place: Scene, one: Simulated, turns: Sequence[PhoneTurn]) -> list[int]:
    """The energy that each turn of a phone call was charged."""
    client = place.client
    user = user_of(client.workspace_id, one.phone_call.dialled.caller)
    rows = await place.query("SELECT job_key, sum(energy_charged)::int AS energy FROM ai_usage_logs GROUP BY job_key")
    by_key = {str(row["job_key"]): int(str(row["energy"])) for row in rows}
    assert (await client.energy(user)).reserved == 0
    keys = [job_key(turn_job_id(client.workspace_id, one.phone_call.dialled.sid, turn.turn_id)) for turn in turns]
    return [by_key.get(key, 0) for key in keys]
