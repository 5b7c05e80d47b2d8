"""ElevenLabs speech-to-text and text-to-speech on ElevenLabs' own SDK."""

import math
from collections.abc import AsyncGenerator, Iterator
from typing import Any, cast

import httpx
from elevenlabs.client import AsyncElevenLabs
from elevenlabs.core.api_error import ApiError
from elevenlabs.types import (
    MultichannelSpeechToTextResponseModel,
    SpeechToTextChunkResponseModel,
    SpeechToTextWordResponseModel,
    VoiceSettings,
)

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
        self._client = AsyncElevenLabs(api_key=api_key, base_url=base_url, timeout=timeout, httpx_client=self._http)

    async def call(self, request: Request, model: str, attempt_id: str) -> TranscriptionReply | SpeechReply:
        if isinstance(request, SpeechRequest):
            return await self._speak(request, model, attempt_id)
        if not isinstance(request, TranscriptionRequest):
            raise BadRequest(NAME, f"cannot serve a request of the kind {request.kind}")
        apart = 1 < request.channels <= MOST_CHANNELS
        with errors_mapped(ApiError, _mapped, self._key):
            response = await self._client.speech_to_text.convert(
                model_id=model,
                file=(FILE_NAME, with_true_length(request.audio)),
                # It does one or the other.
                diarize=not apart,
                use_multi_channel=apart,
                tag_audio_events=True,
                timestamps_granularity="word",
                # The SDK's retry would lose the form fields.
                request_options={
                    "max_retries": 0,
                    "additional_headers": {ATTEMPT_HEADER: attempt_id},
                    "timeout_in_seconds": math.ceil(longest_seconds(request, self._timeout)),
                },
            )
            return _reply(response, model)

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


def _reply(response: object, model: str) -> TranscriptionReply:
    if not isinstance(response, SpeechToTextChunkResponseModel | MultichannelSpeechToTextResponseModel):
        raise MalformedReply(NAME, "the body is not a transcription")
    # The API bills the length of the audio. It does not return the name of the model.
    extra = cast(dict[str, Any], response.model_extra or {})
    if extra.get("error") or extra.get("detail"):
        raise ERRORS.error(NAME, 200, extra, None)
    is_by_channel = isinstance(response, MultichannelSpeechToTextResponseModel)
    transcripts = response.transcripts if is_by_channel else [response]
    seconds = response.audio_duration_secs
    # Nothing says that further channels cost nothing: each one counts.
    usage = Usage(audio_seconds=seconds * len(transcripts)) if seconds else None
    with usage_kept(NAME, usage):
        words = [word for one in transcripts for word in _words(one, by_channel=is_by_channel)]
        return TranscriptionReply(
            words=tuple(sorted(words, key=lambda word: word.start) if is_by_channel else words),
            language=next((one.language_code for one in transcripts if one.words), transcripts[0].language_code),
            usage=usage or Usage(is_known=False),
            model=str(extra.get("model", model)),
            provider_request_id=response.transcription_id or "",
        )


def _words(transcript: SpeechToTextChunkResponseModel, *, by_channel: bool) -> Iterator[SpokenWord]:
    speaker = channel_label((transcript.channel_index or 0) + 1) if by_channel else None
    for word in transcript.words:
        if word.type != "spacing" and word.start is not None:
            yield _word(word, speaker or word.speaker_id or "")


def _word(word: SpeechToTextWordResponseModel, speaker: str) -> SpokenWord:
    start = word.start or 0.0
    return SpokenWord(
        text=word.text,
        start=start,
        end=max(word.end if word.end is not None else start, start),
        speaker=speaker,
        confidence=math.exp(min(word.logprob, 0.0)),
        kind="audio_event" if word.type == "audio_event" else "word",
    )


def _mapped(error: Exception) -> ProviderError:
    if isinstance(error, ApiError):
        return ERRORS.error(NAME, error.status_code or 500, error.body, error.headers)
    if isinstance(error, UNREADABLE):
        return MalformedReply(NAME, vendor_text(error))
    return from_connection(NAME, error)
