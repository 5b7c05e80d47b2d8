"""What a conversation still knows at its end, and what it costs: against its whole history, and its last exchanges.

The scripts of `scripts.py` are said turn by turn, and condensed and remembered on the way. Then each fact is asked for,
in the same conversation; and once more with the whole history in front of the question, and with the last ten
exchanges, on the same routes. The simulator answers from its prompt and knows nothing else, so that what a prompt lacks
is not known. It exits with 1 if a superseded fact is stated.

The tokens of the whole history are computed from the texts, as the simulator counts them, and not sent at every turn;
for the questions, which are sent, the computed number must be the billed one.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import text

from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.scripts import Question, Script, write
from benchmarks.stack import running, say
from parley import Client, ConversationHandle, GenerateResult, Unreachable
from parley.domain.conversation.context import KEPT_EXCHANGES, Exchange
from parley.domain.conversation.contract import TurnReport
from parley.domain.pricing import ConfiguredRates, rates_for
from parley.domain.requests import Message, Provider
from parley.settings import Settings
from simulator.wire import BYTES_PER_TOKEN, count_tokens

# More conversations at once than the cores can serve would only make Temporal repeat their workflow tasks.
CONVERSATIONS, SPEAKING, ASKING = 30, 8, 4
PARLEY, WHOLE, LAST = "Parley", "the whole history", f"the last {KEPT_EXCHANGES} exchanges"
MOST_TRIES = 5
ResultT = TypeVar("ResultT", bound=GenerateResult)
SAID = re.compile(r"You said: (.+)\. This answer")
MILLION = Decimal(1_000_000)
# What each kind of request has taken: answers, summaries, extractions.
SPENT = text("""
    SELECT CASE WHEN action = 'memory_extraction' THEN 'extraction'
                WHEN request_id LIKE '%/condense/%' THEN 'summaries' ELSE 'answers' END AS kind,
           sum(tokens_total) AS tokens, sum(cost_usd) AS usd, count(*) AS requests
    FROM ai_usage_logs WHERE workspace_id = :workspace GROUP BY kind""")


@dataclass
class Score:
    """What was answered to the questions."""

    facts: int = 0
    known: set[tuple[int, str, str, str]] = field(default_factory=set)
    false: list[str] = field(default_factory=list)
    superseded: list[str] = field(default_factory=list)

    def take(self, number: int, script: Script, question: Question, answer: str) -> None:
        """Compare one answer with the truth."""
        said = SAID.search(answer)
        values = frozenset(said[1].split(", ")) if said else frozenset()
        self.facts += len(question.values)
        self.known |= {(number, question.subject, question.predicate, value) for value in values & question.values}
        for value in values - question.values:
            fact = (question.subject, question.predicate, value)
            (self.superseded if fact in script.superseded else self.false).append(f"{question.text} {value}")


@dataclass
class Played:
    """A conversation whose script was said."""

    number: int
    script: Script
    talk: ConversationHandle
    said: Sequence[TurnReport] = ()

    @property
    def messages(self) -> list[Message]:
        return [
            message
            for turn in self.said
            for message in Exchange(number=0, tokens=0, text=turn.text, answer=turn.answer or "").messages
        ]


async def measure(options: Options) -> Figures:
    async with running(PARLEY_STARTING_ENERGY="1000000") as bench:
        client = await bench.client("retention")
        played = [
            Played(number, write(number, options.seed), client.conversation(f"c-{number}", user_id=f"user-{number}"))
            for number in range(options.requests or CONVERSATIONS)
        ]
        await _at_once(SPEAKING, [_speak(one) for one in played])
        spent = await _spent(client)
        say("asking")
        scores = {name: Score() for name in (PARLEY, WHOLE, LAST)}
        differing: list[str] = []
        await _at_once(ASKING, [_ask(client, one, scores, differing) for one in played])
    return _figures(played, spent, scores, differing)


async def _at_once(most: int, plays: Sequence[Any]) -> None:
    limit = asyncio.Semaphore(most)

    async def run(play: Any) -> None:
        async with limit:
            await play

    await asyncio.gather(*map(run, plays))


async def _answered(ask: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """The answer to a request that has an id of its own: as any client, this one sends it again where it must."""
    for _ in range(MOST_TRIES - 1):
        with suppress(Unreachable):
            return await ask()
    return await ask()


async def _speak(one: Played) -> None:
    """Say the script, turn by turn."""
    for turn in one.script.turns:
        result = await _answered(partial(one.talk.say, turn.text, turn_id=turn.turn_id))
        assert result.success, result
    one.said = await one.talk.history(limit=len(one.script.turns))
    say(f"conversation {one.number}: {len(one.said)} turns")


async def _ask(client: Client, one: Played, scores: dict[str, Score], differing: list[str]) -> None:
    """Ask for each fact: in the conversation, after its whole history, and after its last exchanges."""
    for place, question in enumerate(one.script.questions):
        asked, key = Message(role="user", content=question.text), f"{one.number}-question-{place}"
        ask = partial(client.generate, user_id=one.talk.user_id)
        before = {WHOLE: one.messages, LAST: one.messages[-2 * KEPT_EXCHANGES :]}
        answers: dict[str, GenerateResult] = {
            PARLEY: await _answered(partial(one.talk.say, question.text, turn_id=key)),
            **{
                name: await _answered(partial(ask, [*said, asked], key=f"{key} {name}"))
                for name, said in before.items()
            },
        }
        for name, answer in answers.items():
            scores[name].take(one.number, one.script, question, answer.content or "")
        billed = answers[WHOLE].meta.usage.input_tokens
        if billed != _tokens([*one.messages, asked]) or len({answer.meta.model for answer in answers.values()}) > 1:
            differing.append(question.text)


def _tokens(messages: Sequence[Message]) -> int:
    return count_tokens("\n".join(message.text for message in messages))


async def _spent(client: Client) -> dict[str, dict[str, Any]]:
    async with client.database.reads() as tx:
        rows = (await tx.execute(SPENT, {"workspace": client.workspace_id})).mappings().all()
    return {row["kind"]: dict(row) for row in rows}


def _of_histories(played: Sequence[Played], most: int | None) -> tuple[int, Decimal]:
    """The tokens, and dollars, of all turns if each is answered after those before it; at most the last `most`."""
    settings = Settings()
    rates = rates_for(Provider.OPENAI, settings.openai_model, ConfiguredRates.of(settings))
    given = made = 0
    for one in played:
        sizes = [len(message.text.encode()) + 1 for message in one.messages]
        for place, turn in enumerate(one.said):
            first = 0 if most is None else max(2 * (place - most), 0)
            given += -(-(sum(sizes[first : 2 * place + 1]) - 1) // BYTES_PER_TOKEN)
            made += count_tokens(turn.answer or "")
    return given + made, (given * rates.input + made * rates.output) / MILLION


def _figures(
    played: Sequence[Played], spent: dict[str, dict[str, Any]], scores: dict[str, Score], differing: list[str]
) -> Figures:
    turns, conversations = sum(len(one.said) for one in played), len(played)
    used = {
        PARLEY: (sum(int(one["tokens"]) for one in spent.values()), sum(Decimal(one["usd"]) for one in spent.values())),
        WHOLE: _of_histories(played, None),
        LAST: _of_histories(played, KEPT_EXCHANGES),
    }
    figures: Figures = {"load": {"conversations": conversations, "turns": turns, "facts": scores[WHOLE].facts}}
    known = scores[WHOLE].known
    for name, score in scores.items():
        tokens, usd = used[name]
        figures[name] = {
            "facts stated, of all": len(score.known) / score.facts,
            "facts stated, of those that the whole history states": len(score.known & known) / len(known),
            "false statements": len(score.false),
            "superseded facts stated": len(score.superseded),
            "tokens of a turn": tokens / turns,
            "fewer than with the whole history": 1 - tokens / used[WHOLE][0],
            "USD of a conversation": float(usd / conversations),
        }
        for kind in ("false", "superseded"):
            say(f"{name}: {kind}: {Counter(getattr(score, kind))}")
    for missed in sorted(known - scores[PARLEY].known):
        say(f"{PARLEY} does not know: {missed}")
    figures["Parley, by kind of request"] = {
        f"{kind}: {name}": float(one[of]) / per
        for kind, one in spent.items()
        for name, of, per in (("requests of a turn", "requests", turns), ("tokens of a turn", "tokens", turns),
                              ("USD of a conversation", "usd", conversations))
    }  # fmt: skip
    figures[MUST_BE_ZERO] = {
        "superseded facts stated by Parley": len(scores[PARLEY].superseded),
        "questions whose tokens or model differ": len(differing),
    }
    return figures
