"""ElevenLabs speech-to-text and text-to-speech on ElevenLabs' own SDK.

A transcription is requested without the SDK's method: that makes an object of each word on the event loop, which takes
70 ms for a minute of speech and many seconds for hours, while no lease is renewed. It is read in a thread.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
from elevenlabs.client import AsyncElevenLabs
from elevenlabs.core.api_error import ApiError
from elevenlabs.environment import ElevenLabsEnvironment
from elevenlabs.types import VoiceSettings

from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
)
from parley.domain.hearing import channel_label
from parley.domain.json_schema import is_object
from parley.domain.recording import with_true_length
from parley.domain.requests import (
    Provider,
    Reply,
    Request,
    SpeechReply,
    SpeechRequest,
    SpokenWord,
    TranscriptionReply,
    TranscriptionRequest,
    Usage,
    longest_seconds,
)
from parley.domain.streaming import Delta
from parley.providers.protocol import (
    ATTEMPT_HEADER,
    UNREADABLE,
    ErrorTable,
    check_listing,
    errors_mapped,
    from_connection,
    usage_kept,
    vendor_text,
)

NAME = Provider.ELEVENLABS.value
# A fixed name: the user's file name stays private.
FILE_NAME = "recording"
# https://elevenlabs.io/docs/eleven-api/guides/how-to/speech-to-text/batch/multichannel-transcription
MOST_CHANNELS = 5
# What Parley asks for: samples without a container, which any other form can be made of.
SPEECH_FORMAT, SPEECH_RATE = "pcm_16000", 16_000
# https://elevenlabs.io/docs/eleven-api/resources/errors
ERRORS = ErrorTable(
    codes={
        "quota_exceeded": QuotaExceeded,
        "insufficient_credits": QuotaExceeded,
        "payment_required": QuotaExceeded,
        "detected_unusual_activity": QuotaExceeded,
        "invalid_api_key": AuthenticationFailed,
        "too_many_concurrent_requests": RateLimited,
        "concurrent_limit_exceeded": RateLimited,
        "rate_limit_exceeded": RateLimited,
    },
    words={},
    general={"internal_server_error": ProviderUnavailable, "system_busy": ProviderUnavailable},
)


class ElevenLabsAdapter:
    """Speech-to-text with word times, speakers or channels, and audio events; text-to-speech."""

    def __init__(self, *, api_key: str, base_url: str | None, timeout: float) -> None:
        self._key, self._timeout = api_key, timeout
        self._http = httpx.AsyncClient(timeout=timeout)
        self._base_url = (base_url or ElevenLabsEnvironment.PRODUCTION.value).rstrip("/")
        self._client = AsyncElevenLabs(api_key=api_key, base_url=base_url, timeout=timeout, httpx_client=self._http)

    async def call(self, request: Request, model: str, attempt_id: str) -> TranscriptionReply | SpeechReply:
        if isinstance(request, SpeechRequest):
            return await self._speak(request, model, attempt_id)
        if not isinstance(request, TranscriptionRequest):
            raise BadRequest(NAME, f"cannot serve a request of the kind {request.kind}")
        apart = 1 < request.channels <= MOST_CHANNELS
        with errors_mapped(ApiError, _mapped, self._key):
            response = await self._http.post(
                f"{self._base_url}/v1/speech-to-text",
                headers={"xi-api-key": self._key, ATTEMPT_HEADER: attempt_id},
                files={"file": (FILE_NAME, with_true_length(request.audio))},
                data={
                    "model_id": model,
                    # It does one or the other.
                    "diarize": not apart,
                    "use_multi_channel": apart,
                    "tag_audio_events": True,
                    "timestamps_granularity": "word",
                },
                timeout=math.ceil(longest_seconds(request, self._timeout, Provider.ELEVENLABS)),
            )
            return await asyncio.to_thread(_transcription, response, model)

    async def _speak(self, request: SpeechRequest, model: str, attempt_id: str) -> SpeechReply:
        settings = VoiceSettings(stability=request.stability, similarity_boost=request.similarity)
        with errors_mapped(ApiError, _mapped, self._key):
            spoken = self._client.text_to_speech.with_raw_response.stream(
                request.voice,
                text=request.text,
                model_id=model,
                output_format=SPEECH_FORMAT,
                voice_settings=settings,
                request_options={"max_retries": 0, "additional_headers": {ATTEMPT_HEADER: attempt_id}},
            )
            async with spoken as response:
                audio = b"".join([part async for part in response.data])
        if not audio or len(audio) % 2:
            raise MalformedReply(NAME, "the audio is empty or ends within a sample")
        # It bills the characters of the text, and returns neither their number nor the name of the model.
        return SpeechReply(
            audio=audio,
            sample_rate=SPEECH_RATE,
            usage=Usage(input_tokens=len(request.text)),
            model=model,
            provider_request_id=response.headers.get("request-id", ""),
        )

    async def stream(self, request: Request, model: str, attempt_id: str) -> AsyncGenerator[Delta | Reply]:
        """A recording is transcribed whole, so that there is nothing before the reply."""
        yield await self.call(request, model, attempt_id)

    async def recover(self, attempt_id: str) -> None:  # noqa: ARG002 - ElevenLabs stores no replies under attempt ids
        return None

    async def ping(self) -> None:
        with errors_mapped(ApiError, _mapped, self._key):
            check_listing(await self._client.models.list(request_options={"max_retries": 0}))

    async def close(self) -> None:
        await self._http.aclose()


def _transcription(response: httpx.Response, model: str) -> TranscriptionReply:
    try:
        body: Any = response.json()
    except json.JSONDecodeError:
        body = response.text
    if not response.is_success:
        raise ApiError(status_code=response.status_code, headers=dict(response.headers), body=body)
    if not is_object(body) or not ("words" in body or "transcripts" in body or body.get("error") or body.get("detail")):
        raise MalformedReply(NAME, "the body is not a transcription")
    return _reply(body, model)


def _reply(body: dict[str, Any], model: str) -> TranscriptionReply:
    # The API bills the length of the audio. It does not return the name of the model.
    if body.get("error") or body.get("detail"):
        raise ERRORS.error(NAME, 200, body, None)
    is_by_channel = "transcripts" in body
    transcripts: list[dict[str, Any]] = body["transcripts"] if is_by_channel else [body]
    seconds = body.get("audio_duration_secs")
    # Nothing says that further channels cost nothing: each one counts.
    usage = Usage(audio_seconds=seconds * len(transcripts)) if seconds else None
    with usage_kept(NAME, usage):
        words = [word for one in transcripts for word in _words(one, by_channel=is_by_channel)]
        return TranscriptionReply(
            words=tuple(sorted(words, key=lambda word: word.start) if is_by_channel else words),
            language=next((one for one in transcripts if one["words"]), transcripts[0])["language_code"],
            usage=usage or Usage(is_known=False),
            model=str(body.get("model", model)),
            provider_request_id=body.get("transcription_id") or "",
        )


def _words(transcript: dict[str, Any], *, by_channel: bool) -> Iterator[SpokenWord]:
    speaker = channel_label((transcript.get("channel_index") or 0) + 1) if by_channel else None
    for word in transcript["words"]:
        if word["type"] != "spacing" and word.get("start") is not None:
            yield _word(word, speaker or word.get("speaker_id") or "")


def _word(word: dict[str, Any], speaker: str) -> SpokenWord:
    start, end = word["start"], word.get("end")
    return SpokenWord(
        text=word["text"],
        start=start,
        end=max(start if end is None else end, start),
        speaker=speaker,
        confidence=math.exp(min(word["logprob"], 0.0)),
        kind="audio_event" if word["type"] == "audio_event" else "word",
    )


def _mapped(error: Exception) -> ProviderError:
    if isinstance(error, ApiError):
        return ERRORS.error(NAME, error.status_code or 500, error.body, error.headers)
    if isinstance(error, UNREADABLE):
        return MalformedReply(NAME, vendor_text(error))
    return from_connection(NAME, error)
