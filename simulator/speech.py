"""ElevenLabs' text-to-speech: a tone for each character, as long as a voice would say the text. It bills characters."""

import asyncio
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request

from simulator.elevenlabs import SpeechToText
from simulator.wire import Body, Refusal, Reply, read_json_object

RATES = {f"pcm_{rate}": rate for rate in (8000, 16000, 22050, 24000, 32000, 44100, 48000)}
# A voice says about 15 characters a second.
CHARACTERS_PER_SECOND = 15
LOWEST_HERTZ, HERTZ_PER_LETTER, LOUDNESS = 180, 12, 6000
MOST_CHARACTERS = 10_000
PART_BYTES = 4096
SETTINGS = ("stability", "similarity_boost", "style")


@dataclass(frozen=True)
class SpeechRequest:
    """`rate`: samples a second."""

    model: str
    text: str
    rate: int


@dataclass(frozen=True)
class TextToSpeech:
    """Errors, keys and models are those of the vendor's other endpoint."""

    vendor: SpeechToText
    name: str = "elevenlabs"
    request_id_header: str = "request-id"

    def api_key(self, headers: Mapping[str, str]) -> str | None:
        return self.vendor.api_key(headers)

    async def read(self, request: Request) -> SpeechRequest:
        body = await read_json_object(request)
        text, model = body.get("text"), body.get("model_id")
        if not isinstance(text, str):
            raise Refusal("missing_field", field="text")
        if not text.strip() or len(text) > MOST_CHARACTERS:
            raise Refusal("bad_request", f"text: must have 1 to {MOST_CHARACTERS} characters")
        form = request.query_params.get("output_format", "mp3_44100_128")
        if form not in RATES:
            raise Refusal("bad_request", f"output_format: the simulator makes {', '.join(RATES)}; got {form[:50]}")
        settings = body.get("voice_settings") or {}
        for name in SETTINGS:
            if not isinstance(settings, dict) or not 0 <= float(settings.get(name) or 0) <= 1:
                raise Refusal("bad_request", f"voice_settings.{name}: must be between 0 and 1")
        return SpeechRequest(str(model or "eleven_multilingual_v2"), text, RATES[form])

    def traits(self, parsed: SpeechRequest) -> frozenset[str]:  # noqa: ARG002 (all requests have the same)
        return frozenset({"speech", "stream"})

    async def answer(self, parsed: SpeechRequest, number: int, damage: str) -> Reply:  # noqa: ARG002 (no damage)
        audio = await asyncio.to_thread(tones, parsed.text, parsed.rate)
        parts = tuple(audio[at : at + PART_BYTES] for at in range(0, len(audio), PART_BYTES))
        return Reply(Body(parts, "audio/pcm", stream=True), input_tokens=len(parsed.text))

    def models(self) -> object:
        return self.vendor.models()

    def error(self, refusal: Refusal, request_id: str) -> tuple[int, object]:
        return self.vendor.error(refusal, request_id)


def tones(text: str, rate: int) -> bytes:
    """Samples of 16 bits, mono: a tone for each letter or digit, silence for the others."""
    length = rate // CHARACTERS_PER_SECOND
    fade = length // 8
    sound: dict[str, bytes] = {}
    for character in set(text):
        hertz = LOWEST_HERTZ + HERTZ_PER_LETTER * (ord(character.lower()) % 32)
        loudness = LOUDNESS if character.isalnum() else 0
        samples = (
            int(loudness * min(1, at / fade, (length - at) / fade) * math.sin(2 * math.pi * hertz * at / rate))
            for at in range(length)
        )
        sound[character] = struct.pack(f"<{length}h", *samples)
    return b"".join(sound[character] for character in text)
