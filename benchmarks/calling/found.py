"""How phone calls ended in the middle of which something failed.

None may be lost, no turn charged twice, and the ledger agrees with the provider.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.stack import say
from parley.cli.billed import read_billed
from parley.client.phone import user_of
from parley.domain.conversation.contract import Ended, turn_job_id
from parley.domain.generate.contract import job_key
from parley.domain.phone.contract import PhoneTurn
from parley.domain.phone.settings import Phrases
from simulator.twilio.simulation import Simulated
from simulator.twilio.summary import Turn, repetitions, summarize, turns_of
from tests.faults.scene import Scene

# What a caller reports who could not say all. Other errors are those of a gateway that was killed while it was asked.
LOST = "the phone call was over before"


async def found(place: Scene, held: Sequence[Simulated]) -> tuple[dict[str, Any], dict[str, int]]:
    """The figures of phone calls that are over, and what must be 0."""
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
