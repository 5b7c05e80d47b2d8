"""One session of ConversationRelay: the WebSocket, the caller's speech and keys, and the voice."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from simulator.seeded import fraction
from simulator.twilio import frames
from simulator.twilio.clock import Clock
from simulator.twilio.log import CallLog
from simulator.twilio.network import Lane, Network
from simulator.twilio.speech import DIGIT_SECONDS, PLAY_SECONDS, Heard, Item, Voice, VoiceSettings
from simulator.twilio.twiml import Relay

# Seconds: from the start of speech until it is noticed, between partial prompts, from its end to the final prompt.
NOTICED, PARTIAL_EVERY, ENDPOINT = 0.2, 0.25, 0.35
# Text that is sent so long after an interruption was not on its way when it happened.
LATE_SECONDS = 0.3


@dataclass(frozen=True)
class SessionSettings:
    """words_per_second: how fast the caller speaks. seed: chooses forms and delays."""

    seed: int = 7
    voice: VoiceSettings = field(default_factory=VoiceSettings)
    network: Network = field(default_factory=Network)
    words_per_second: float = 3.0


@dataclass(frozen=True)
class SessionEnd:
    """Why a session is over. `status`: completed (the caller left), ended (the server sent `end`) or failed."""

    status: str
    handoff_data: str | None = None
    error_code: int | None = None
    error_message: str | None = None


HUNG_UP = SessionEnd("completed")
LOST = SessionEnd("failed", error_code=64105, error_message="Websocket ended")


class Session:
    """A session on an open WebSocket; `run` holds it to its end."""

    def __init__(
        self, socket: ClientConnection, relay: Relay, setup: dict[str, Any], settings: SessionSettings, log: CallLog,
        clock: Clock,
    ) -> None:  # fmt: skip
        self.relay, self._setup, self._settings, self._log, self._clock = relay, setup, settings, log, clock
        self._socket = socket
        self._languages = {"tts": relay.tts_language, "transcription": relay.transcription_language}
        self.voice = Voice(clock, settings.voice, self._on_voice)
        self._outgoing = Lane(clock, settings.network, settings.seed, self._send_now)
        incoming = Network(settings.network.delay, settings.network.jitter)
        self._incoming = Lane(clock, incoming, settings.seed + 1, self._take)
        self.voice.begin_turn(self._turn)
        self._end: asyncio.Future[SessionEnd] = asyncio.get_running_loop().create_future()
        self._malformed = self._interrupts = 0
        self._interrupted_at: float | None = None
        # Interruptions that arrive after the prompt that follows them.
        self._late: list[dict[str, Any]] = []
        self.awaits_answer = False
        """Whether the caller has said something, and nothing is heard since."""
        self.changed = asyncio.Event()
        """Set at every event of the voice and every frame of the server."""
        self._handlers: dict[type, Callable[[Any], None]] = {
            frames.Text: self._on_text,
            frames.Play: self._on_play,
            frames.SendDigits: self._on_digits,
            frames.Language: self._on_language,
            frames.End: self._on_end,
        }

    @property
    def _turn(self) -> int:
        return len(self._log.of("said"))

    @property
    def is_over(self) -> bool:
        return self._end.done()

    async def run(self) -> SessionEnd:
        """Hold the session until the caller or the server ends it, or the connection is lost."""
        works: list[Awaitable[None]] = [self.voice.run(), self._outgoing.run(), self._incoming.run(), self._receive()]
        tasks = [asyncio.ensure_future(work) for work in works]
        self.send(self._setup)
        if self.relay.greeting:
            self._greet()
        try:
            await asyncio.wait({self._end, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            return self._end.result() if self._end.done() else self._failed(tasks)
        finally:
            self.changed.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._socket.close(1000, "Closing websocket session")

    def _failed(self, tasks: Sequence[asyncio.Future[None]]) -> SessionEnd:
        """A lost connection; a mistake of the simulator is raised."""
        for task in tasks:
            if task.done() and not isinstance(task.exception(), ConnectionClosed | None):
                task.result()
        self._finish(LOST)
        return LOST

    def _greet(self) -> None:
        self._log.note("greeting", text=self.relay.greeting)
        self.voice.say(
            self.relay.greeting,
            last=True,
            interruptible=self.relay.greeting_interruptible,
            preemptible=False,
            kind="greeting",
        )

    # What the caller does

    async def say(self, text: str) -> None:
        """Speak a text. It interrupts an agent that speaks, as soon as it is noticed."""
        words = text.split()
        self._log.note("says", text=text)
        await self._clock.sleep(NOTICED)
        is_reported = self._notice_speech(words[0] if words else "")
        await self._speak(words, is_reported=is_reported)
        ended = self._clock.now()
        await self._clock.sleep(ENDPOINT)
        if "speaker-events" in self.relay.events:
            self.send(frames.info("clientSpeaking", "off"))
        # An agent that finished in the meantime did not keep the caller's words from being reported.
        if not is_reported:
            self._log.note("lost", text=text)
            return
        self._end_turn(text, ended)

    def _end_turn(self, text: str, ended: float) -> None:
        self._interrupted_at = None
        self.awaits_answer = True
        self._log.note("said", text=text, ended=round(ended, 3))
        self.voice.begin_turn(self._turn)
        self.send(frames.prompt(text, self._languages["transcription"], last=True))
        while self._late:
            self.send(self._late.pop(0))

    def _notice_speech(self, word: str) -> bool:
        """Interrupt the agent if it speaks. Returns whether what the caller says is reported."""
        if "speaker-events" in self.relay.events:
            self.send(frames.info("clientSpeaking", "on"))
        if not self._interrupt("speech", said=word) and self.voice.current is not None:
            return self.relay.report_input in {"any", "speech"}
        return True

    async def _speak(self, words: list[str], *, is_reported: bool) -> None:
        """Take the time of speaking, and send what was recognised so far."""
        began, sent = self._clock.now(), 0
        seconds = max(len(words) / self._settings.words_per_second - NOTICED, 0.1)
        while (left := began + seconds - self._clock.now()) > 0:
            await self._clock.sleep(min(PARTIAL_EVERY, left))
            known = min(len(words), int((self._clock.now() - began) / seconds * len(words)))
            if is_reported and self.relay.partial_prompts and known > sent:
                self.partial(" ".join(words[:known]))
                sent = known

    def partial(self, text: str) -> None:
        """Send a partial prompt, even if the TwiML asks for none: a script may."""
        self._log.note("partial", text=text)
        self.send(frames.prompt(text, self._languages["transcription"], last=False))

    async def press(self, digits: str) -> None:
        """Press keys one after the other; a key interrupts an agent that speaks."""
        for digit in digits:
            self._log.note("key", digit=digit, reported=self.relay.reads_keys)
            if self.relay.reads_keys:
                self.send(frames.key(digit))
            self._interrupt("dtmf", said=digit)
            await self._clock.sleep(DIGIT_SECONDS)

    def _interrupt(self, by: str, said: str) -> bool:
        unspoken = self.voice.unspoken
        heard = self.voice.interrupt(by)
        if heard is None:
            return False
        self._interrupts += 1
        self._interrupted_at = self._clock.now()
        duration = self._duration(heard)
        self._log.note("interrupt", by=by, said=said, heard=heard.text, duration=duration, unheard=unspoken.strip())
        frame = frames.interrupt(heard.text, duration)
        if by == "speech" and self._settings.network.late_interrupts:
            self._late.append(frame)
        else:
            self.send(frame)
        return True

    def _duration(self, heard: Heard) -> object:
        """The milliseconds as an integer, as text or as a fraction: all of these were seen of Twilio."""
        milliseconds = heard.seconds * 1000
        form = int(fraction(self._settings.seed, "duration", self._interrupts) * 3)
        return (round(milliseconds), str(round(milliseconds)), round(milliseconds, 3))[form]

    def hang_up(self) -> None:
        self._finish(HUNG_UP)

    def drop(self) -> None:
        """Cut the connection without a closing frame, as a lost network does."""
        self._log.note("network", what="the connection is cut")
        self._socket.transport.abort()
        self._finish(LOST)

    def send(self, frame: dict[str, Any]) -> None:
        """Send a frame over the network of the script."""
        self._outgoing.put(json.dumps(frame, ensure_ascii=False))

    def send_malformed(self) -> None:
        self._log.note("network", what="a malformed frame is sent")
        self._outgoing.put('{"type": "prompt", "voicePrompt": ')

    def report_error(self, description: str) -> None:
        self._log.note("network", what=f"an error frame is sent: {description}")
        self.send({"type": "error", "description": description})

    # What the server does

    async def _receive(self) -> None:
        async for message in self._socket:
            self._incoming.put(message if isinstance(message, str) else message.hex())

    async def _take(self, message: str) -> None:
        try:
            frame, unknown = frames.read_frame(message)
        except frames.Malformed as problem:
            await self._refuse(message, problem)
            return
        self._malformed = 0
        for name in unknown:
            self._warn(f"a {type(frame).__name__} frame has the unknown field {name!r}: it is ignored")
        self._handlers[type(frame)](frame)
        self.changed.set()

    async def _refuse(self, message: str, problem: frames.Malformed) -> None:
        self._malformed += 1
        self._warn(f"64107: malformed frame of the server: {problem}")
        await self._send_now(json.dumps(frames.refusal(message)))
        if self._malformed >= frames.MOST_MALFORMED:
            await self._socket.close(1007, "Too many consecutive malformed messages.")
            self._finish(LOST)

    def _on_text(self, frame: frames.Text) -> None:
        late = (
            self._interrupted_at is not None
            and self._clock.now() - self._interrupted_at > LATE_SECONDS * self._clock.speed
        )
        item = self.voice.say(
            frame.token,
            last=frame.last,
            interruptible=_inputs(frame.interruptible, self.relay.interruptible),
            preemptible=self.relay.preemptible if frame.preemptible is None else frame.preemptible,
        )
        if item is not None:
            self._log.note("text", token=frame.token, last=frame.last, turn=item.turn)
        elif late and frame.token.strip():
            self._warn(f"text of the interrupted answer arrives long after the interruption: {frame.token!r} …")
            self._interrupted_at = None  # once is enough

    def _on_play(self, frame: frames.Play) -> None:
        self._log.note("play", source=frame.source, loop=frame.loop)
        interruptible = _inputs(frame.interruptible, self.relay.interruptible)
        seconds = PLAY_SECONDS * (frame.loop or 1000)
        self.voice.add(Item("play", interruptible, frame.preemptible or False, seconds=seconds, rest=""))

    def _on_digits(self, frame: frames.SendDigits) -> None:
        self._log.note("digits", digits=frame.digits)
        self.voice.add(Item("digits", "none", seconds=DIGIT_SECONDS * len(frame.digits), rest=frame.digits))

    def _on_language(self, frame: frames.Language) -> None:
        self._languages["tts"] = frame.tts_language or self._languages["tts"]
        self._languages["transcription"] = frame.transcription_language or self._languages["transcription"]
        self._log.note("language", **self._languages)

    def _on_end(self, frame: frames.End) -> None:
        if self.voice.unspoken.strip():
            self._warn(f"`end` cuts off what was not yet spoken: {self.voice.unspoken.strip()!r}")
        self._finish(SessionEnd("ended", handoff_data=frame.handoff_data))

    def _on_voice(self, name: str, **details: Any) -> None:
        handle = getattr(self, f"_voice_{name}", None)
        if handle:
            handle(**details)
        self.changed.set()

    def _voice_speaking(self, item: Item) -> None:
        self.awaits_answer = False
        self._log.note("speaking", kind=item.kind, turn=item.turn)
        if "speaker-events" in self.relay.events:
            self.send(frames.info("agentSpeaking", "on"))

    def _voice_word(self, item: Item, word: str) -> None:
        self._log.note("spoken", text=word, turn=item.turn)

    def _voice_played(self, text: str) -> None:
        if "tokens-played" in self.relay.events and text:
            self.send(frames.info("tokensPlayed", text))

    def _voice_gap(self, item: Item, seconds: float) -> None:
        self._log.note("gap", seconds=round(seconds, 3), turn=item.turn)

    def _voice_quiet(self) -> None:
        self._log.note("quiet")
        if "speaker-events" in self.relay.events:
            self.send(frames.info("agentSpeaking", "off"))

    # Below

    async def _send_now(self, frame: str) -> None:
        await self._socket.send(frame)

    def _warn(self, text: str) -> None:
        self._log.note("warning", text=text)

    def _finish(self, end: SessionEnd) -> None:
        if not self._end.done():
            self._end.set_result(end)
            self._log.note("ended", status=end.status, handoff_data=end.handoff_data, error=end.error_message)
        self.changed.set()


def _inputs(given: bool | None, default: str) -> str:
    if given is None:
        return default
    return "any" if given else "none"
