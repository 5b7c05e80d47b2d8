"""What an agent says without a model, as recordings in a voice of ElevenLabs, which Twilio fetches and plays.

They are made when a session begins, and paid once in a workspace. Where no voice answers, a recorded sentence of the
installation is played; where there is none either, or it is not ready in time, Twilio's own voice says the text.
"""

import asyncio
import hmac
import logging
from collections import OrderedDict
from typing import NamedTuple
from urllib.parse import urlencode

from gateway.inline import InlineGenerate
from gateway.phone.calls import OpenCall
from parley.domain.errors import ParleyError
from parley.domain.phone.settings import NumberSettings
from parley.domain.requests import MOST_SPOKEN_CHARACTERS, SpeechRequest
from parley.domain.speech import spoken
from parley.domain.speech_job import SpeechInput
from parley.settings import Settings

PATH = "/phone/recordings"
# A recording has some hundred kilobytes.
MOST_KEPT = 200
# Who is said to use a recording: it is the same for all callers.
USER = "phone-recordings"

log = logging.getLogger("parley.gateway.phone")


class Recording(NamedTuple):
    """A text in a voice."""

    workspace_id: str
    voice: str
    language: str
    text: str


class Recordings:
    """The recordings of this process."""

    def __init__(self, inline: InlineGenerate, settings: Settings) -> None:
        self._inline, self._settings = inline, settings
        self._made: OrderedDict[Recording, asyncio.Task[bytes | None]] = OrderedDict()

    def prepare(self, call: OpenCall) -> None:
        """Begin to make the recordings of a phone call."""
        if call.public_url:
            for text in call.settings.fixed_texts(call.language).values():
                self._make(call.workspace_id, call.settings, call.language, text)

    def source(self, call: OpenCall, text: str) -> str | None:
        """The address of the recording of a text; None: there is none, or not yet."""
        texts = call.settings.fixed_texts(call.language)
        name = next((name for name, fixed in texts.items() if fixed.strip() == text.strip()), None)
        if name is None or not call.public_url:
            return None
        made = self._make(call.workspace_id, call.settings, call.language, texts[name])
        if made is None or not made.done() or made.result() is None:
            return None
        given = {"number": call.number, "language": call.language, "name": name}
        return f"{call.public_url}{PATH}?{urlencode({**given, 'seal': self.seal(**given)})}"

    async def audio(self, workspace_id: str, settings: NumberSettings, language: str, name: str) -> bytes | None:
        """The recording of a number's text as a WAV file, also if another process gave out its address."""
        text = settings.fixed_texts(language).get(name, "")
        made = self._make(workspace_id, settings, language, text)
        return None if made is None else await asyncio.shield(made)

    def seal(self, number: str, language: str, name: str) -> str:
        """What only this installation can add to the address of a recording."""
        token = self._settings.twilio_auth_token
        key = token.get_secret_value() if token else ""
        return hmac.digest(key.encode(), f"recording\n{number}\n{language}\n{name}".encode(), "sha256").hex()

    def _make(
        self, workspace_id: str, settings: NumberSettings, language: str, text: str
    ) -> "asyncio.Task[bytes | None] | None":
        said = spoken(text, language)[:MOST_SPOKEN_CHARACTERS]
        if settings.recorded_voice is None or not said.strip():
            return None
        recording = Recording(workspace_id, settings.recorded_voice, language, said)
        made = self._made.get(recording)
        if made is None or (made.done() and made.result() is None):
            self._made[recording] = made = asyncio.ensure_future(self._speech(recording))
        self._made.move_to_end(recording)
        if len(self._made) > MOST_KEPT:
            self._made.popitem(last=False)
        return made

    async def _speech(self, recording: Recording) -> bytes | None:
        asked = SpeechInput(
            workspace_id=recording.workspace_id,
            user_id=USER,
            model=self._settings.elevenlabs_speech_model,
            request=SpeechRequest(text=recording.text, voice=recording.voice),
        )
        try:
            speech = await self._inline.speak(asked)
        except ParleyError:
            return None
        except Exception:  # a phone call goes on without it: Twilio says the text
            log.exception("no recording is made of a text of a number")
            return None
        return speech.audio if speech else None
