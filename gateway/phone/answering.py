"""The answer to one turn of a phone call: spoken while it is made, within its deadlines."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from activities.paid_call import SpooledReply
from gateway.phone.calls import OpenCall, PhoneCalls, turn_options
from gateway.phone.database import PROBE_SECONDS, SILENT, stop
from gateway.phone.outage import Outage
from gateway.phone.voice import Voice
from parley.client.conversation import ConversationHandle
from parley.domain.conversation.contract import TurnResult
from parley.domain.errors import ParleyError, Unreachable
from parley.domain.phone.contract import TurnMeasures
from parley.domain.phone.heard import speech_seconds
from parley.domain.phone.tools import AskedAction, UnknownToolCall, read_call
from parley.domain.requests import ChatReply, Finish, Usage
from parley.domain.speech import SpokenText
from parley.domain.streaming import Delta, TextDelta, ToolCallDelta

# How long a piece of text may be held back because what follows decides how it is said.
HELD_SECONDS = 0.05
WORD = re.compile(r"\S+")
SENTENCE_END = re.compile(r"[.!?…。！？](?=\s|$)")
# An answer that is too long ends with its sentence, if that ends within so many words.
MORE_WORDS = 20
# The reply of a turn that is answered without the database, until it is whole.
UNFINISHED = ChatReply(text="", finish=Finish.CANCELLED, usage=Usage(is_known=False), model="")
TIMES = ("filler_ms", "template_ms", "first_token_ms", "response_ms")
TIMED_OUT, TEMPORAL_DOWN = "ResponseTimeout", "TemporalDown"

log = logging.getLogger("parley.gateway.phone")


@dataclass
class Turn:
    """What the caller said, and what came of it.

    began: when the caller had finished, by the event loop's clock. prefix: what was said before the answer's first
    word. said: what was sent of the answer. heard: what the caller heard of it; None: all of it, as far as is known.
    interrupted: whether the caller spoke into it.
    times: the milliseconds after which something happened, by the names that `TurnMeasures` has for them.
    reply: the whole answer, where PostgreSQL was down: it is not stored yet.
    is_resumed: an earlier session began to answer it. skip: the caller has heard about so many characters of the answer
    there. before: what of it was left out for that, which is a part of `said`.
    asked: what the model asks for beside its words. most_usd: what it may cost; None: no limit.
    """

    id: str
    text: str
    began: float
    prefix: str = ""
    said: str = ""
    heard: str | None = None
    interrupted: bool = False
    times: dict[str, int] = field(default_factory=dict[str, int])
    error: str = ""
    reply: ChatReply | None = None
    is_resumed: bool = False
    skip: int = 0
    before: str = ""
    asked: AskedAction | None = None
    cost_usd: Decimal = Decimal(0)
    most_usd: Decimal | None = None

    @property
    def measures(self) -> TurnMeasures:
        spoken = self.said if self.heard is None else self.heard
        audio_ms = round(speech_seconds(self.prefix + spoken) * 1000)
        return TurnMeasures(
            heard=self.heard, interrupted=self.interrupted, audio_ms=audio_ms, error=self.error, **self.times
        )

    @property
    def sent(self) -> str:
        """The answer as it was sent, with an apology if there was one."""
        return (self.said if self.heard is None else self.heard).strip()

    def part_of(self, spoken: str) -> str:
        """The part of the answer in the beginning of what was spoken since the caller had finished."""
        return (self.before + spoken[len(self.prefix) :]).strip()


class _TemporalDown(Exception):
    """Temporal does not answer, and no word of the answer has come."""


class _DatabaseDown(Unreachable):
    """PostgreSQL does not answer, and no word of the answer has come."""


class Answer:
    """Speaks the answer to a turn. Where none comes in time, the turn has an error, and nothing more is said."""

    def __init__(self, calls: PhoneCalls, call: OpenCall, voice: Voice, turn: Turn) -> None:
        self._calls, self._call, self._voice, self._turn = calls, call, voice, turn
        self._clock = asyncio.get_running_loop()
        self._tool_call: ToolCallDelta | None = None

    async def speak(self) -> None:
        """Answer the turn. It can be cancelled at any time: the request to the provider is cancelled too."""
        filling = asyncio.ensure_future(self._fill_silence())
        try:
            await self._answer()
        except TimeoutError:
            self._turn.error = TIMED_OUT
        except ParleyError as error:
            self._turn.error = getattr(error, "reason", "") or error.code
        finally:
            await stop(filling)
        if not self._turn.error and (self._turn.said or self._turn.asked is None):
            await self._voice.say("", last=True)

    async def _answer(self) -> None:
        """With the database; without it, where it does not answer and the settings allow that."""
        try:
            await self._stored()
        except Unreachable:
            if self._turn.said or self._calls.outage is None:
                raise
            await self._spooled(self._calls.outage)

    async def _spooled(self, outage: Outage) -> None:
        turn, longest = self._turn, self._call.settings.deadlines.response_timeout
        turn.reply = UNFINISHED
        # However the turn ends, its requests are paid.
        self._calls.report_spooled()
        async with (
            asyncio.timeout(longest) as limit,
            aclosing(outage.answer(self._call, turn.id, turn.text, turn.most_usd)) as deltas,
            aclosing(speech_of(self._kept(deltas), self._call.language)) as pieces,
        ):
            async for piece in pieces:
                limit.reschedule(self._clock.time() + longest)
                if not await self._say(piece):
                    turn.heard = turn.said
                    return

    async def _kept(self, deltas: AsyncIterable[Delta | SpooledReply]) -> AsyncGenerator[Delta]:
        """The deltas of an answer. If the whole of it follows, it is kept, to be stored later."""
        async for delta in deltas:
            if isinstance(delta, SpooledReply):
                assert isinstance(delta.reply, ChatReply)  # noqa: S101 - the reply to a chat request
                self._turn.reply, self._turn.cost_usd = delta.reply, delta.cost_usd or Decimal(0)
            else:
                self._note("first_token_ms")
                # A paid call delivers a tool call whole. An agent does one thing in a turn: further calls are not done.
                if isinstance(delta, ToolCallDelta) and self._tool_call is None:
                    self._tool_call = delta
                yield delta

    def _note(self, time: str) -> None:
        """Something of the turn happens now, for the first time or again."""
        self._turn.times.setdefault(time, round((self._clock.time() - self._turn.began) * 1000))

    async def _stored(self) -> None:
        """By the workflow; by this process, where Temporal does not answer."""
        if self._can_spool and self._calls.database.is_down:
            raise _DatabaseDown(SILENT)
        most_usd = self._turn.most_usd
        await self._watched(self._calls.store_unstored(self._call))
        if not self._calls.is_temporal_down:
            try:
                await self._watched(self._speak(self._calls.talk(self._call, most_usd)), temporal=True)
                return
            except _DatabaseDown:
                raise
            except (_TemporalDown, Unreachable) as error:
                if self._turn.said or (isinstance(error, Unreachable) and await self._calls.is_temporal_up()):
                    raise Unreachable(str(error) or TEMPORAL_DOWN) from None
                self._calls.note_temporal_is_down()
        await self._watched(self._speak(self._calls.inline_talk(self._call, most_usd)))

    @property
    def _can_spool(self) -> bool:
        """Whether an answer is possible without PostgreSQL. If not, a turn waits for it: it may only be slow."""
        return self._calls.outage is not None

    async def _watched(self, work: Coroutine[Any, Any, None], *, temporal: bool = False) -> None:
        """Do work that needs PostgreSQL, and Temporal too: what waits for one that is silent is given up.

        Raises:
            _DatabaseDown, _TemporalDown: it does not answer, and no word of the answer has come.
        """
        working = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(self._until_down(temporal=temporal))
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise watching.result()
            working.result()
        finally:
            await stop(watching)
            await self._calls.database.stop(working)

    async def _until_down(self, *, temporal: bool) -> Exception:
        """Wait until PostgreSQL, or Temporal too, does not answer and nothing was said; returns what to raise."""
        down: Exception | None = None
        while down is None:
            await asyncio.sleep(PROBE_SECONDS)
            if self._can_spool and not await self._calls.database.is_up():
                down = _DatabaseDown(SILENT)
            elif temporal and not await self._calls.is_temporal_up():
                down = _TemporalDown()
            if self._turn.said:  # it may have come while they were asked
                await asyncio.Event().wait()
        return down

    async def _speak(self, talk: ConversationHandle) -> None:
        settings = self._call.settings
        stream = talk.stream(
            self._turn.text,
            turn_id=self._turn.id,
            on_disconnect="cancel",
            **turn_options(settings),
        )
        longest = settings.deadlines.response_timeout
        begins_by = self._turn.began + longest
        async with asyncio.timeout_at(max(begins_by, self._clock.time() + longest / 4)) as limit, stream:
            async with aclosing(speech_of(self._kept(stream), self._call.language)) as pieces:
                async for piece in pieces:
                    if stream.is_refused:
                        break
                    limit.reschedule(self._clock.time() + longest)
                    if not await self._say(piece):
                        self._turn.heard = self._turn.said
                        return
            result = await stream.result()
        self._record(result)

    def _record(self, result: Any) -> None:
        self._turn.cost_usd = result.meta.cost_usd
        self._turn.said = self._turn.said or self._turn.before
        if isinstance(result, TurnResult) and not result.success:
            self._turn.error = result.reason or "NoAnswer"
        elif (called := self._tool_call) is not None:
            try:
                self._turn.asked = read_call(self._call.settings, called.name, called.arguments)
            except UnknownToolCall as error:
                log.warning("%s: %s", self._call.call_sid, error)
                self._turn.error = UnknownToolCall.__name__
        elif not self._turn.said.strip():
            self._turn.error = "EmptyReply"

    async def _say(self, piece: str) -> bool:
        """Say the next piece of the answer; returns whether more may follow."""
        turn, most = self._turn, self._call.settings.max_response_words
        if not turn.said:
            piece = self._unheard(piece)
            if not piece:
                return True
            self._note("response_ms")
            turn.said = turn.before
        piece, is_whole = _within(turn.said, piece, most)
        turn.said += piece
        await self._voice.say(piece)
        return is_whole

    def _unheard(self, piece: str) -> str:
        """The first words of the answer that the caller has not heard: an earlier session may have said some."""
        turn = self._turn
        turn.before += piece if turn.before else piece.lstrip()
        answer = turn.before
        begins = next((word.start() for word in WORD.finditer(answer) if word.end() > turn.skip), len(answer))
        turn.before = answer[:begins]
        return answer[begins:]

    async def _fill_silence(self) -> None:
        """Say something while the answer is late: a filler, and then what fits the kind of the question."""
        deadlines, phrases = self._call.settings.deadlines, self._call.phrases
        template = self._call.settings.template_for(self._turn.text) or phrases.slow
        fillers = (deadlines.filler, phrases.filler, "filler_ms"), (deadlines.template, template, "template_ms")
        for seconds, text, time in sorted(fillers):
            await asyncio.sleep(max(self._turn.began + seconds - self._clock.time(), 0))
            if self._turn.said:
                return
            filler = text if text.endswith(" ") else f"{text} "
            self._turn.prefix += filler
            self._note(time)
            await self._voice.say_fixed(filler)


async def speech_of(stream: AsyncIterable[Delta], language: str) -> AsyncGenerator[str]:
    """The text of a stream as it is spoken, in pieces. What is held back is given out when the stream pauses."""
    spoken, deltas = SpokenText(language), aiter(stream)
    waiting: asyncio.Future[Any] = asyncio.ensure_future(anext(deltas, None))
    try:
        while True:
            if not (await asyncio.wait({waiting}, timeout=HELD_SECONDS))[0]:
                if released := spoken.release():
                    yield released
                await asyncio.wait({waiting})
            delta = waiting.result()
            if delta is None:
                break
            if isinstance(delta, TextDelta) and (piece := spoken.feed(delta.text)):
                yield piece
            waiting = asyncio.ensure_future(anext(deltas, None))
        if rest := spoken.flush():
            yield rest
    finally:
        await stop(waiting)


def _within(said: str, piece: str, most: int) -> tuple[str, bool]:
    """The part of a piece that an answer of at most so many words has room for, and whether more may follow.

    An answer that is too long ends with a sentence, or some words later.
    """
    words = len(said.split())
    if words + len(piece.split()) <= most:
        return piece, True
    for end in SENTENCE_END.finditer(piece):
        if words + len(piece[: end.end()].split()) >= most:
            return piece[: end.end()], False
    if words + len(piece.split()) <= most + MORE_WORDS:
        return piece, True
    kept = re.match(rf"(?:\s*\S+){{0,{max(most + MORE_WORDS - words, 0)}}}", piece)
    return kept[0] if kept else "", False
