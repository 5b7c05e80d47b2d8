"""One talk with a caller: what the caller says and presses, what the agent answers, and how it ends."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any, NamedTuple

from gateway.phone.answering import TIMES, Answer, Turn
from gateway.phone.calls import OpenCall, PhoneCalls
from gateway.phone.outage import CallSpent
from gateway.phone.voice import Send, Voice
from parley.domain.conversation.contract import Ended
from parley.domain.errors import ParleyError
from parley.domain.generate.contract import Refused
from parley.domain.model import UNSTORABLE, is_blank
from parley.domain.phone.contract import SESSION_ENDED, Counts, turn_id
from parley.domain.phone.frames import (
    Dtmf,
    End,
    Failed,
    Info,
    Interrupt,
    Language,
    Prompt,
    SendDigits,
    TwilioFrame,
)
from parley.domain.phone.heard import heard_of
from parley.domain.phone.keys import Entered
from parley.domain.phone.settings import KeyAction
from parley.storage.tables import ConversationTurn

# A caller does not say the same thing twice within this time, before a word of the answer: a frame was doubled.
DOUBLED_SECONDS = 2.0
# What is recognised so long after the last of a speech belongs to another one: Twilio reports the end of a speech, or
# more of it, sooner.
SAME_SPEECH_SECONDS = 10.0
# How long the next turn waits for the record of the one before, which its prompt reads.
RECORD_SECONDS = 1.0
# In a row. Where no person can take over, a phone call that goes on is worth more than one that is ended: most failures
# are an outage of seconds.
MOST_FAILURES, MOST_FAILURES_WITHOUT_A_PERSON = 2, 5
# A caller says no more than this at once.
LONGEST_PROMPT = 20_000
# Why a phone call ends that may not cost more.
SPENT = "call_usd"

log = logging.getLogger("parley.gateway.phone")


class _Before(NamedTuple):
    """The turn before, whose interruption may be reported after what the caller said.

    said: all that the voice was sent. played: what of it was reported as spoken. was_running: whether its answer was
    still made.
    """

    turn: Turn
    said: str
    played: str
    was_running: bool


class Talk:
    """Holds a talk. `take` takes Twilio's frames; `ended` is set when the agent has ended it."""

    def __init__(self, calls: PhoneCalls, call: OpenCall, send: Send) -> None:
        self._calls, self._call, self._send = calls, call, send
        self._clock = asyncio.get_running_loop()
        self._voice = Voice(send, lambda text: calls.recordings.source(call, text))
        # Frames and timers change one after another which turn is answered: each may wait in the middle of it.
        self._acting = asyncio.Lock()
        self._keys = calls.keys_of(call)
        # The secret entry that a session that follows would find open.
        self._kept_entry = call.entry
        self._keeping: asyncio.Task[None] | None = None
        self._turn: Turn | None = None
        # The turn whose answer the voice says, as long as it says nothing else and is not interrupted.
        self._spoken: Turn | None = None
        self._before: _Before | None = None
        self._answering: asyncio.Task[None] | None = None
        self._records: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.Task[None]] = {}
        self._counts: Counter[str] = Counter()
        # What was recognised of a speech that goes on, what of it was answered already, and until when that counts.
        self._partial, self._taken, self._taken_until = "", "", 0.0
        # What the caller said that is in no stored turn.
        self._unstored = ""
        self._failures = self._silences = 0
        self._number = call.last_turn
        self.ended = asyncio.Event()

    async def begin(self) -> None:
        """Begin, or go on after a session that was lost: with the answer that was interrupted, if there is one."""
        async with self._acting:
            await self._begin()

    async def _begin(self) -> None:
        call, limits = self._call, self._call.settings.limits
        self._calls.recordings.prepare(call)
        self._later("time", max(limits.call_minutes * 60 - call.seconds, 0.0), self._time_is_up)
        if call.entry is not None:
            self._keys.resume(call.entry)
        if not call.is_resumed:
            self._voice.expect(call.settings.welcome_greeting)
            self._await_words()
            return
        if call.language != call.settings.language:
            await self._send(Language(tts_language=call.language, transcription_language=call.language))
        phrase = f"{call.phrases.reconnected.strip()} "
        again = "" if call.entry is None or call.entry.is_judged else call.entry.entry.text
        await self._voice.say(phrase, last=call.unfinished is None and not again)
        if call.unfinished is None:
            if again:
                await self._voice.say_fixed(again, last=True)
            self._await_words()
        elif call.unfinished.outcome in ("", Ended.COMPLETED):
            self._start(self._resumed(call.unfinished, phrase))
        else:  # its answer was cancelled when the session was lost
            await self._ask(call.unfinished.text, phrase)

    def _resumed(self, turn: ConversationTurn, phrase: str) -> Turn:
        known = {name: getattr(turn, name) for name in TIMES}
        return Turn(
            turn.turn_id,
            turn.text,
            self._clock.time(),
            phrase,
            times={name: after for name, after in known.items() if after is not None},
            is_resumed=True,
            skip=self._call.heard,
        )

    async def take(self, frame: TwilioFrame) -> None:
        """Take a frame. After the agent has ended the talk, only what Twilio reports of its voice counts."""
        handlers: dict[type, Callable[[Any], Awaitable[None]]] = {
            Prompt: self._on_prompt,
            Interrupt: self._on_interrupt,
            Dtmf: self._on_dtmf,
            Failed: self._on_error,
        }
        handle = handlers.get(type(frame))  # a second setup says nothing new
        if isinstance(frame, Info):
            self._on_info(frame)
        elif handle is not None and not self.ended.is_set():
            async with self._acting:
                await handle(frame)

    # What the caller does

    async def _on_prompt(self, frame: Prompt) -> None:
        """The caller speaks, or has spoken."""
        text = UNSTORABLE.sub("", frame.voice_prompt)[:LONGEST_PROMPT].strip()
        self._forget("silence")
        if self._clock.time() >= self._taken_until:
            self._taken = ""
        if not frame.last:
            self._listen(text, frame.lang)
            return
        self._stop_listening()
        said, self._taken = _rest_of(text, self._taken), ""
        if is_blank(said):
            self._await_words()
        else:
            await self._say(said, frame.lang)

    async def _on_interrupt(self, frame: Interrupt) -> None:
        """The caller interrupts the agent: what was not heard is not part of the conversation."""
        self._counts["interruptions"] += 1
        self._forget("silence")
        reported = frame.utterance_until_interrupt, frame.duration_until_interrupt_ms
        before, self._before, is_silent = self._before, None, not self._voice.said
        heard = self._voice.interrupted(*reported)
        # Nothing was said since: what was spoken was the answer before.
        was_spoken = not is_blank(frame.utterance_until_interrupt) or frame.duration_until_interrupt_ms > 0
        if before is not None and is_silent and was_spoken:
            heard = before.turn.part_of(heard_of(before.said, *reported, before.played))
            self._shorten(before.turn, heard, was_running=before.was_running)
        else:
            await self._cut(heard)
        self._await_words()

    async def _on_dtmf(self, frame: Dtmf) -> None:
        """The caller presses a key."""
        self._counts["keys"] += 1
        self._forget("silence")
        pressed = self._keys.press(frame.digit)
        self._forget("digits")
        if self._keys.is_open:
            self._later("digits", self._call.settings.digits.seconds, self._finish_digits)
        elif pressed is None:
            self._await_words()
        else:
            await self._take_keys(pressed)

    def _on_info(self, frame: Info) -> None:
        """Twilio reports something of its voice."""
        if frame.name == "agentSpeaking" and frame.value == "off":
            self._voice.stopped()
        elif frame.name == "tokensPlayed" and isinstance(frame.value, str):
            self._voice.was_played(frame.value)

    async def _on_error(self, frame: Failed) -> None:
        """Twilio reports an error of the session."""
        self._counts["errors"] += 1
        log.warning("%s: Twilio reports an error: %.200r", self._call.call_sid, frame.description)

    async def until_quiet(self) -> None:
        """Wait until the agent has finished what it says."""
        while self._answering is not None and not self._answering.done():
            await asyncio.wait({self._answering})
        await self._voice.until_spoken()

    async def close(self) -> None:
        """The session is over: stop what runs, and record what is known."""
        for name in list(self._timers):
            self._forget(name)
        turn, heard = self._spoken, self._voice.heard_by_now
        # An answer that is whole is recorded already: it may only be spoken still, or its tool waits for that.
        is_whole = turn is not None and (not self._is_answering or turn.asked is not None)
        await self._stop_answer()
        if turn is not None and turn.said and (not is_whole or turn.part_of(heard) != turn.sent):
            turn.heard, turn.error = turn.part_of(heard), turn.error or SESSION_ENDED
            self._record(turn)
        await self._calls.leave(self._call, Counts(**self._counts), self._keys.open_entry, self._records)

    # Speech that goes on

    def _listen(self, text: str, language: str) -> None:
        """Keep what was recognised. Without more of it, or after too much of it, it counts as said."""
        deadlines = self._call.settings.deadlines
        self._partial, self._taken_until = text, self._clock.time() + SAME_SPEECH_SECONDS
        if text and "speech" not in self._timers:
            self._later("longest speech", deadlines.max_speech, lambda: self._take_partial(language), keep=True)
        self._later("speech", deadlines.speech_timeout, lambda: self._take_partial(language))

    def _stop_listening(self) -> None:
        self._partial = ""
        self._forget("speech")
        self._forget("longest speech")

    async def _take_partial(self, language: str) -> None:
        text, said = self._partial, _rest_of(self._partial, self._taken)
        self._stop_listening()
        if not is_blank(said):
            self._taken, self._taken_until = text, self._clock.time() + SAME_SPEECH_SECONDS
            await self._say(said, language)
        else:
            self._await_words()

    # Turns

    async def _say(self, text: str, language: str = "") -> None:
        """The caller has said something: answer it."""
        if self._is_doubled(text) or self.ended.is_set():
            return
        await self._supersede()
        entered = None if self._keys.is_secret else self._keys.finish()
        if not self._keys.is_open:
            self._forget("digits")
        keyed = entered.text if isinstance(entered, Entered) else ""
        text = " ".join(part for part in (self._unstored, keyed, text) if part)
        self._unstored = ""
        settings = self._call.settings
        if settings.wants_a_person(text):
            await self._transfer("transfer")
        else:
            await self._follow_language(language)
            await self._ask(text)

    async def _ask(self, text: str, prefix: str = "") -> None:
        """Answer a new turn, within what the phone call may still cost. `prefix`: what the voice says before it."""
        left = await self._left_usd()
        if left is not None and left <= 0:
            await self._end(self._call.phrases.time_is_up, SPENT)
            return
        self._number += 1
        turn = Turn(turn_id(self._call.call_sid, self._number), text, self._clock.time(), prefix, most_usd=left)
        self._start(turn)

    async def _left_usd(self) -> Decimal | None:
        """What the phone call may still cost, after answers that were cut off, and those of earlier sessions."""
        if self._call.settings.limits.call_usd is not None:
            with suppress(ParleyError):  # without PostgreSQL, what is known here counts
                await self._calls.read_costs(self._call)
        return self._call.left_usd

    async def _is_spent(self, turn: Turn) -> bool:
        """Whether a turn was refused because it may cost more than is left of the phone call's dollars."""
        if turn.most_usd is None or turn.error not in (Refused.BUDGET_EXHAUSTED, CallSpent.__name__):
            return False
        with suppress(ParleyError):
            return turn.error == CallSpent.__name__ or await self._calls.caps_leave(self._call, turn.most_usd)
        return False

    def _is_doubled(self, text: str) -> bool:
        turn = self._turn
        if turn is None or turn.text != text or turn.said or turn.heard is not None:
            return False
        return self._is_answering and self._clock.time() - turn.began < DOUBLED_SECONDS

    def _start(self, turn: Turn) -> None:
        self._turn = self._spoken = turn
        self._silences = 0
        self._voice.begin(turn.prefix)
        self._forget("silence")
        self._answering = asyncio.ensure_future(self._run(turn))

    async def _run(self, turn: Turn) -> None:
        if self._records is not None:
            await asyncio.wait({self._records}, timeout=RECORD_SECONDS)
        try:
            await Answer(self._calls, self._call, self._voice, turn).speak()
        except ConnectionError:  # the socket is gone: its session ends
            return
        except Exception:
            log.exception("%s: the turn failed", self._call.call_sid)
            turn.error = "Bug"
        self._call.costs[turn.id] = max(turn.cost_usd, self._call.costs.get(turn.id, turn.cost_usd))
        if turn.error and turn.is_resumed and not turn.said:  # it was cancelled when the session was lost
            await self._ask(turn.text, turn.prefix)
        elif await self._is_spent(turn):
            turn.heard = turn.said
            self._record(turn)
            await self._end(self._call.phrases.time_is_up, SPENT)
        elif turn.error:
            await self._failed(turn)
        else:
            self._failures = 0
            if turn.asked is not None:
                await self._act(turn, turn.asked.action)
                return
            self._record(turn)
            self._await_words()

    async def _act(self, turn: Turn, action: KeyAction) -> None:
        """Do what the model asks for, once its words have been spoken: a caller who interrupts them prevents it.

        Where it had none, the caller hears a phrase, never silence.
        """
        if turn.said:
            self._record(turn)
            await self._voice.until_spoken()
        if action.language is not None:
            await self._change_language(action.language)
        phrases, phrase = self._call.phrases, ""
        if not turn.said:
            turn.heard = phrase = {"transfer": phrases.transfer, "end": phrases.farewell}.get(action.kind, phrases.done)
            self._record(turn)
        if action.kind in ("transfer", "end"):
            await self._end(phrase, "transfer" if action.kind == "transfer" else "agent")
            return
        if phrase:
            await self._voice.say_fixed(phrase, last=True)
        if action.digits is not None:
            await self._send(SendDigits(digits=action.digits))
        self._await_words()

    async def _failed(self, turn: Turn) -> None:
        """There is no answer: apologise, and after some times in a row hand over to a person, or end the phone call."""
        self._failures += 1
        self._counts["errors"] += 1
        log.warning("%s: a turn has no answer: %s", self._call.call_sid, turn.error)
        has_person = self._call.settings.transfer_to is not None
        if self._failures >= (MOST_FAILURES if has_person else MOST_FAILURES_WITHOUT_A_PERSON):
            turn.heard = turn.said
            self._record(turn)
            await self._transfer("failures")
            return
        apology = self._call.phrases.apology
        turn.heard = f"{turn.said} {apology}".strip()
        self._record(turn)
        await self._voice.say_fixed(apology, last=True)
        self._await_words()

    async def _supersede(self) -> None:
        """The caller says more before the answer was spoken: what was sent of it is what was heard."""
        turn, spoken, self._spoken = self._turn, self._spoken, None
        voice = self._voice
        self._before = None if spoken is None else _Before(spoken, voice.said, voice.played, self._is_answering)
        if turn is not None and self._is_answering and turn.heard is None:
            await self._stop_answer()
            turn.heard = turn.said.strip()
            if self._voice.is_open:  # what follows is not a part of this sentence
                await self._voice.say("", last=True)
            await self._recorded(turn)

    async def _cut(self, heard: str) -> None:
        """The caller interrupts: if the voice says the answer to a turn, this much of it was heard."""
        turn, was_running = self._spoken, self._is_answering
        if turn is None:
            return
        self._spoken = None
        await self._stop_answer()
        part = turn.part_of(heard)
        if was_running or part != turn.sent:
            turn.heard, turn.interrupted = part, True
            await self._recorded(turn)

    def _shorten(self, turn: Turn, heard: str, *, was_running: bool) -> None:
        if was_running or heard != turn.sent:
            turn.heard, turn.interrupted = heard, True
            self._record(turn)

    @property
    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.done()

    async def _stop_answer(self) -> None:
        if self._answering is not None and self._answering is not asyncio.current_task():
            self._answering.cancel()
            await asyncio.wait({self._answering})

    # Records

    def _record(self, turn: Turn) -> None:
        """Record what is known of a turn, after the records before it."""
        before, measures = self._records, turn.measures
        if not turn.error:
            self._call.exchanges[turn.id] = (turn.text, turn.said if turn.heard is None else turn.heard)
        if turn.reply is not None and turn.error in ("", SESSION_ENDED):
            reply = turn.reply if turn.reply.text else turn.reply.model_copy(update={"text": turn.said})
            self._calls.keep_answered(self._call, turn.id, turn.text, reply, measures, turn.cost_usd)
            return

        async def work() -> None:
            if before is not None:
                await asyncio.wait({before})
            with suppress(ParleyError):
                if turn.error and turn.error != SESSION_ENDED:
                    await self._calls.keep_failed(self._call, turn.id, turn.text, measures)
                elif not await self._calls.measure(self._call, turn.id, measures) and measures.heard == "":
                    self._unstored = turn.text

        self._records = asyncio.ensure_future(work())

    async def _recorded(self, turn: Turn) -> None:
        self._record(turn)
        if self._records is not None:  # None: PostgreSQL is down, and the turn is stored later
            await asyncio.wait({self._records}, timeout=RECORD_SECONDS)

    # Keys and languages

    async def _finish_digits(self) -> None:
        if (pressed := self._keys.finish()) is not None:
            await self._take_keys(pressed)

    async def _take_keys(self, pressed: Entered | KeyAction) -> None:
        if isinstance(pressed, Entered):
            await self._keep_entry()
            await self._say(pressed.text)
        else:
            await self._do(pressed)

    async def _keep_entry(self) -> None:
        """Record which secret entry is open, before the caller is asked for its digits: a lost session forgets it.

        Where it cannot be recorded, a session that follows takes it that one may be open.
        """
        before = self._keeping

        async def keep() -> None:
            if before is not None:
                await asyncio.wait({before})
            entry = self._keys.open_entry
            with suppress(ParleyError):
                if entry != self._kept_entry and await self._calls.keep_entry(self._call, entry):
                    self._kept_entry = entry

        self._keeping = asyncio.ensure_future(keep())
        await asyncio.wait({self._keeping}, timeout=RECORD_SECONDS)

    async def _do(self, action: KeyAction) -> None:
        if action.kind != "say":  # a turn supersedes what is spoken by itself, unless it is doubled
            await self._supersede()
        match action.kind:
            case "say":
                await self._say(action.text)
            case "transfer":
                await self._transfer("transfer")
            case "end":
                await self._end(action.text or self._call.phrases.good_bye, "caller")
            case "language":
                await self._change_language(action.language or self._call.language)
                await self._say_fixed(action.text)
            case "enter":
                self._keys.begin(action)
                await self._keep_entry()
                await self._say_fixed(action.text)
            case "send_digits":
                await self._say_fixed(action.text)
                await self._send(SendDigits(digits=action.digits or ""))

    async def _say_fixed(self, text: str) -> None:
        self._spoken = None
        self._voice.begin()
        if text:
            await self._voice.say_fixed(text, last=True)
        self._await_words()

    async def _follow_language(self, tag: str) -> None:
        """Change to the language in which the caller speaks, if the number has it."""
        known = self._call.settings.language_like(tag) if tag else None
        if known is not None and known != self._call.language:
            await self._change_language(known)

    async def _change_language(self, language: str) -> None:
        self._call.language = language
        self._calls.recordings.prepare(self._call)
        await self._send(Language(tts_language=language, transcription_language=language))
        with suppress(ParleyError):
            await self._calls.change_language(self._call, language)

    # The end

    async def _transfer(self, reason: str) -> None:
        """Hand over to a person, if the number has one. The action callback does it, with what is handed over."""
        phrases = self._call.phrases
        if self._call.settings.transfer_to is None:
            await self._end(phrases.good_bye, reason)
        else:
            await self._end(phrases.transfer if reason == "transfer" else phrases.hand_off, reason)

    async def _time_is_up(self) -> None:
        await self._supersede()
        await self._end(self._call.phrases.time_is_up, "time_is_up")

    async def _end(self, text: str, reason: str) -> None:
        """Say the last words, and end the session once they have been spoken."""
        if not self.ended.is_set():
            self.ended.set()
            self._later("end", 0, lambda: self._say_good_bye(text, reason))

    async def _say_good_bye(self, text: str, reason: str) -> None:
        self._spoken = None
        last = self._turn.text if self._turn is not None else ""
        handoff = {"reason": reason, "callSid": self._call.call_sid, "language": self._call.language, "said": last}
        if self._turn is not None and self._turn.asked is not None and self._turn.asked.why:
            handoff["why"] = self._turn.asked.why
        with suppress(ParleyError):
            await self._calls.explain(self._call.workspace_id, self._call.call_sid, reason, handoff)
        if text:
            await self._voice.say_fixed(text, last=True)
        await self._voice.until_spoken()
        await self._send(End(handoff_data=json.dumps(handoff, ensure_ascii=False)))

    # Silence

    def _await_words(self) -> None:
        """Ask whether the caller is still there, if nothing is said for long after the agent has spoken."""
        if not self.ended.is_set() and not self._is_answering_elsewhere:
            self._later("silence", self._voice.seconds_left + self._call.settings.deadlines.silence, self._silent)

    @property
    def _is_answering_elsewhere(self) -> bool:
        return self._is_answering and self._answering is not asyncio.current_task()

    async def _silent(self) -> None:
        self._silences += 1
        if self._silences > self._call.settings.deadlines.silences:
            await self._end(self._call.phrases.silence_good_bye, "silence")
        else:
            await self._say_fixed(self._call.phrases.are_you_there)

    def _later(self, name: str, seconds: float, work: Callable[[], Awaitable[None]], *, keep: bool = False) -> None:
        """Do something after a time, unless it is forgotten. `keep`: a timer of that name that runs stays."""
        if keep and name in self._timers:
            return
        self._forget(name)

        async def wait() -> None:
            await asyncio.sleep(seconds)
            self._timers.pop(name, None)
            try:
                async with self._acting:
                    await work()
            except ConnectionError:
                pass
            except Exception:
                log.exception("%s: %s failed", self._call.call_sid, name)

        self._timers[name] = asyncio.ensure_future(wait())

    def _forget(self, name: str) -> None:
        timer: asyncio.Task[Any] | None = self._timers.pop(name, None)
        if timer is not None and timer is not asyncio.current_task():
            timer.cancel()


def _rest_of(text: str, taken: str) -> str:
    """What was said after the part that was answered already."""
    words, before = text.split(), [word.casefold().strip(".,!?") for word in taken.split()]
    begins = [word.casefold().strip(".,!?") for word in words[: len(before)]]
    return " ".join(words[len(before) :]) if before and begins == before else text
