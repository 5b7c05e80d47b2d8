"""Conversations under kill -9: each turn is sent twice, by two clients of a conversation, while processes die.

A client sends its turns one after the other, and reads each answer at one of two gateways while it is made. 100 ms
after a turn it sends the same turn again at the other gateway, as an impatient client does. A reader whose gateway died
comes back to the other one. Every turn must be answered once, in one order, and charged once; and every reader must
have seen each token of its answer once.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - the moments of the kills are random

import httpx

from parley.cli.billed import read_billed
from parley.domain.conversation.contract import Ended, turn_job_id, workflow_id
from parley.domain.generate.contract import job_key as key_of
from tests.faults.gateways import Reader, start_gateway
from tests.faults.processes import AnyProcess
from tests.faults.scene import Scene
from tests.parts import TEST_TIMEOUT_SECONDS

CLIENTS = ("phone", "laptop")
SECONDS_BEFORE_AGAIN = 0.1
GATEWAYS = 2
LEAST_SECONDS, MOST_SECONDS = 0.2, 2.0
TOKENS_PER_SECOND = 400


@dataclass
class Said:
    """A turn, with its two readers."""

    turn_id: str
    readers: tuple[Reader, Reader]


@dataclass
class Talk:
    """A conversation of a user: how many turns each client says, and what it has said, in order.

    before: how many turns are said before, without a fault.
    """

    name: str
    turns: int
    before: int = 0
    said: dict[str, list[Said]] = field(default_factory=dict[str, list[Said]])

    @property
    def user(self) -> str:
        return f"user-of-{self.name}"

    @property
    def all_turns(self) -> int:
        return self.before + self.turns * len(CLIENTS)


class Talking:
    """Conversations in a scene, whose worker and gateways are killed meanwhile."""

    def __init__(
        self,
        place: Scene,
        http: httpx.AsyncClient,
        talks: Sequence[Talk],
        seed: int,
        report: Callable[[str], None] = print,
    ) -> None:
        self._report, self._place, self._http, self.talks = report, place, http, talks
        self._random = Random(seed)
        self._secret, self._urls, self._gateways = "", list[str](), list[AnyProcess]()
        self._started = 0

    async def start(self) -> None:
        """Start a worker and two gateways."""
        place = self._place
        key = await place.client.gateway_keys.create("tests", requests_per_minute=100_000, concurrent_streams=1000)
        self._secret = key.secret
        for talk in self.talks:
            await place.client.grant_energy(talk.user, 10 * talk.all_turns, key="talking")
        await place.simulator.post("latency", seconds=0.05, tokens_per_second=TOKENS_PER_SECOND)
        self._worker, gateways = await asyncio.gather(
            place.start_worker(), asyncio.gather(*(self._start_gateway() for _ in range(GATEWAYS)))
        )
        self._gateways, self._urls = [one for one, _ in gateways], [url for _, url in gateways]
        for talk in self.talks:
            handle = place.client.conversation(talk.name, user_id=talk.user)
            for number in range(talk.before):
                assert (await handle.say(f"Question {number} before.")).success

    async def run(self, kills: Sequence[str]) -> int:
        """Say all turns, while `worker` and `gateway` are killed in this order. Returns how many hit it."""
        speaking = asyncio.gather(
            *(self._speak(talk, client, place) for talk in self.talks for place, client in enumerate(CLIENTS))
        )
        hits = 0
        for kill in kills:
            await asyncio.sleep(self._random.uniform(LEAST_SECONDS, MOST_SECONDS))
            hits += not speaking.done()
            self._report(
                f"{sum(len(one) for talk in self.talks for one in talk.said.values())} turns sent: kill {kill}"
            )
            await (self._kill_worker() if kill == "worker" else self._kill_gateway())
        await speaking
        return hits

    async def _start_gateway(self) -> tuple[AnyProcess, str]:
        self._started += 1
        return await start_gateway(self._place, f"gateway-{self._started}")

    async def _kill_worker(self) -> None:
        self._worker.kill()
        await self._worker.wait()
        self._worker = await self._place.start_worker()

    async def _kill_gateway(self) -> None:
        """Kill one of the two gateways, and start another in its place."""
        place = self._random.randrange(GATEWAYS)
        self._gateways[place].kill()
        await self._gateways[place].wait()
        self._gateways[place], self._urls[place] = await self._start_gateway()

    async def _speak(self, talk: Talk, client: str, first: int) -> None:
        said = talk.said.setdefault(client, [])
        for number in range(talk.turns):
            turn_id = f"{client}-{number}"
            body = {
                # No two prompts are alike: an answer from the cache is not charged.
                "messages": f"{talk.name} at the {client}. Question {number}: what does the export contain?",
                "user_id": talk.user,
                "conversation_id": talk.name,
            }
            turn = Said(turn_id, (Reader(self._secret, turn_id, body), Reader(self._secret, turn_id, body)))
            said.append(turn)
            async with asyncio.timeout(4 * TEST_TIMEOUT_SECONDS):
                await asyncio.gather(
                    turn.readers[0].read_at_any(self._http, self._urls, first),
                    self._again(turn.readers[1], first + 1),
                )

    async def _again(self, reader: Reader, first: int) -> None:
        await asyncio.sleep(SECONDS_BEFORE_AGAIN)
        await reader.read_at_any(self._http, self._urls, first)


async def faults_of(place: Scene, talks: Sequence[Talk]) -> dict[str, int]:
    """What must be 0 after conversations under kills."""
    faults = {
        "turns without an answer": 0,
        "turns missing, or answered twice": 0,
        "turns out of their client's order": 0,
        "readers with other tokens than the answer": 0,
        "turns that are not charged": 0,
        "turns that are charged more than once": 0,
        "energy still reserved": 0,
        "exchanges missing in the last context": 0,
    }
    for talk in talks:
        handle = place.client.conversation(talk.name, user_id=talk.user)
        total = talk.all_turns
        history = await handle.history(limit=total + 1)
        numbers = {turn.turn_id: turn.number or 0 for turn in history}
        faults["turns without an answer"] += sum(turn.outcome is not Ended.COMPLETED for turn in history)
        faults["turns missing, or answered twice"] += [turn.number for turn in history] != [*range(1, total + 1)]
        for said in talk.said.values():
            order = [numbers.get(turn.turn_id, 0) for turn in said]
            faults["turns out of their client's order"] += order != sorted(order)
            faults["readers with other tokens than the answer"] += sum(
                reader.text != reader.result["content"] for turn in said for reader in turn.readers
            )
        charged = await charges_of(place, talk)
        energies = [charged.get(turn.turn_id, 0) for turn in history]
        faults["turns that are not charged"] += energies.count(0)
        faults["turns that are charged more than once"] += sum(one > 1 for one in energies)
        faults["energy still reserved"] += (await place.client.energy(talk.user)).reserved
        context = "\n".join(message.text for message in await handle.context())
        faults["exchanges missing in the last context"] += sum(turn.text not in context for turn in history[-10:])
    path = place.directory / "billed.json"
    path.write_text(json.dumps(await place.simulator.billed()), encoding="utf-8")
    faults["audit findings"] = len(await place.client.audit(read_billed(path)))
    return faults


async def charges_of(place: Scene, talk: Talk) -> dict[str, int]:
    """The energy that each turn was charged."""
    rows = await place.query("SELECT job_key, sum(energy_charged)::int AS energy FROM ai_usage_logs GROUP BY job_key")
    by_key = {str(row["job_key"]): int(str(row["energy"])) for row in rows}
    handle = place.client.conversation(talk.name, user_id=talk.user)
    turn_ids = [turn.turn_id for turn in await handle.history(limit=talk.all_turns + 1)]
    keys = {turn_id: key_of(turn_job_id(place.client.workspace_id, talk.name, turn_id)) for turn_id in turn_ids}
    return {turn_id: by_key.get(key, 0) for turn_id, key in keys.items()}


async def runs_of(place: Scene, talk: Talk) -> int:
    """The runs of a conversation's workflow: one more for each time that it continued as new."""
    job_id = workflow_id(place.client.workspace_id, talk.name)
    return len([one async for one in place.client.temporal.list_workflows(f"WorkflowId = '{job_id}'")])
