"""Speech over HTTP: a text as a WAV file. It runs in this process; the same text is paid once."""

import asyncio

from fastapi import APIRouter, Request, Response
from pydantic import Field

from gateway.answers import finished
from gateway.auth import CurrentCaller, KeyedRoute, requires
from gateway.dropin import described
from gateway.state import Gateway
from parley.domain.gateway_keys import Scope
from parley.domain.generate.contract import Identifier
from parley.domain.model import Model, Text
from parley.domain.requests import MOST_SPOKEN_CHARACTERS, SpeechRequest
from parley.domain.speech import spoken
from parley.domain.speech_job import SpeechInput

router = APIRouter(prefix="/api/speech", tags=["speech"], route_class=KeyedRoute)
WAV = "audio/wav"


class SpeechBody(Model):
    """What to say. Marks, numbers and links of the text are said as in `parley.domain.speech`.

    voice: the vendor's id of a voice; default: that of the settings. language: a BCP 47 code.
    stability, similarity: of the voice, 0 to 1.
    """

    text: Text = Field(min_length=1, max_length=MOST_SPOKEN_CHARACTERS)
    user_id: Identifier
    voice: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]{1,64}$")
    language: str = Field(default="en-US", max_length=35)
    stability: float = Field(default=0.5, ge=0, le=1)
    similarity: float = Field(default=0.75, ge=0, le=1)


@router.post("", openapi_extra=requires(Scope.GENERATE), responses={200: {"content": {WAV: {}}}, 204: {}})
async def speak(caller: CurrentCaller, request: Request, body: SpeechBody) -> Response:
    """A WAV file that says the text; 204 where no voice and no recorded sentence does."""
    gateway: Gateway = request.app.state.gateway
    settings = caller.client.settings
    asked = SpeechInput(
        workspace_id=caller.client.workspace_id,
        user_id=body.user_id,
        model=settings.elevenlabs_speech_model,
        request=SpeechRequest(
            text=spoken(body.text, body.language)[:MOST_SPOKEN_CHARACTERS],
            voice=body.voice or settings.elevenlabs_voice,
            stability=body.stability,
            similarity=body.similarity,
        ),
    )
    running = asyncio.ensure_future(gateway.inline.speak(asked))
    speech = await finished(gateway, request, running)
    if speech is None:
        return Response(status_code=204)
    return Response(speech.audio, media_type=WAV, headers=described(speech.meta) if speech.meta else {})
