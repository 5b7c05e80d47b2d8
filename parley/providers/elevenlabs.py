"""ElevenLabs speech-to-text on ElevenLabs' own SDK."""

import math
from typing import Any, cast

import httpx
from elevenlabs.client import AsyncElevenLabs
from elevenlabs.core.api_error import ApiError
from elevenlabs.types import SpeechToTextChunkResponseModel, SpeechToTextWordResponseModel

from parley.domain.errors import (
    BadRequest,
    MalformedReply,
    ProviderError,
    QuotaExceeded,
)
from parley.domain.requests import Provider, Request, SpokenWord, TranscriptionReply, TranscriptionRequest, Usage
from parley.providers.protocol import (
    ATTEMPT_HEADER,
    UNREADABLE,
    check_listing,
    errors_mapped,
    from_connection,
    from_status,
    vendor_text,
)

NAME = Provider.ELEVENLABS.value
# A fixed name: the user's file name stays private.
FILE_NAME = "recording"


class ElevenLabsAdapter:
    """Speech-to-text with word times, speakers and audio events."""

    def __init__(self, *, api_key: str, base_url: str | None, timeout: float) -> None:
        self._key = api_key
        self._http = httpx.AsyncClient(timeout=timeout)
        self._client = AsyncElevenLabs(api_key=api_key, base_url=base_url, timeout=timeout, httpx_client=self._http)

    async def call(self, request: Request, model: str, attempt_id: str) -> TranscriptionReply:
        if not isinstance(request, TranscriptionRequest):
            raise BadRequest(NAME, f"cannot serve a {request.kind}")
        with errors_mapped(ApiError, _mapped, self._key):
            response = await self._client.speech_to_text.convert(
                model_id=model,
                file=(FILE_NAME, request.audio),
                diarize=True,
                tag_audio_events=True,
                timestamps_granularity="word",
                # The SDK's retry would lose the form fields.
                request_options={"max_retries": 0, "additional_headers": {ATTEMPT_HEADER: attempt_id}},
            )
            return _reply(response, request, model)

    async def recover(self, attempt_id: str) -> None:  # noqa: ARG002 - ElevenLabs stores no replies under attempt ids
        return None

    async def ping(self) -> None:
        with errors_mapped(ApiError, _mapped, self._key):
            check_listing(await self._client.models.list(request_options={"max_retries": 0}))

    async def close(self) -> None:
        await self._http.aclose()


def _reply(response: object, request: TranscriptionRequest, model: str) -> TranscriptionReply:
    if not isinstance(response, SpeechToTextChunkResponseModel):
        raise MalformedReply(NAME, "the body is not a transcription")
    # The API bills the length of the audio. It does not return the name of the model.
    extra = cast(dict[str, Any], response.model_extra or {})
    seconds = response.audio_duration_secs or request.audio_seconds
    return TranscriptionReply(
        words=tuple(_word(word) for word in response.words if word.type != "spacing" and word.start is not None),
        language=response.language_code,
        usage=Usage(audio_seconds=seconds),
        model=str(extra.get("model", model)),
        provider_request_id=response.transcription_id or "",
    )


def _word(word: SpeechToTextWordResponseModel) -> SpokenWord:
    start = word.start or 0.0
    return SpokenWord(
        text=word.text,
        start=start,
        end=max(word.end if word.end is not None else start, start),
        speaker=word.speaker_id or "",
        confidence=math.exp(min(word.logprob, 0.0)),
        kind="audio_event" if word.type == "audio_event" else "word",
    )


def _mapped(error: Exception) -> ProviderError:
    if isinstance(error, ApiError):
        return _mapped_status(error)
    if isinstance(error, UNREADABLE):
        return MalformedReply(NAME, vendor_text(error))
    return from_connection(NAME, error)


def _mapped_status(error: ApiError) -> ProviderError:
    status, body = error.status_code or 500, error.body
    detail = body.get("detail", body) if isinstance(body, dict) else body
    code = detail.get("status", "") if isinstance(detail, dict) else ""
    message = detail.get("message", "") if isinstance(detail, dict) else detail
    if code == "quota_exceeded":
        return QuotaExceeded(NAME, vendor_text(message))
    if status < 300:
        return MalformedReply(NAME, vendor_text(message))
    return from_status(NAME, status, vendor_text(f"{code} {message}"), error.headers)
