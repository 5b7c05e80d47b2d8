"""ElevenLabs' speech-to-text, and the multipart form in which it takes a recording."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from simulator.audio import Undecodable, channels
from simulator.recordings import Recordings, Transcript, TranscriptWord
from simulator.wire import Body, Refusal, Reply, model_name

# status, type, code, message
ERRORS: Mapping[str, tuple[int, str, str, str]] = {
    "bad_request": (400, "validation_error", "invalid_parameters", "The request is not valid."),
    "undecodable": (
        400,
        "validation_error",
        "invalid_content",
        "File upload is corrupted. Please ensure it is playable audio.",
    ),
    "auth": (401, "authentication_error", "invalid_api_key", "Invalid API key"),
    "quota": (
        401,
        "authentication_error",
        "quota_exceeded",
        "You have insufficient quota to complete this request.",
    ),
    "not_found": (404, "not_found", "not_found", "Not Found"),
    "rate_limit": (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        "Too many requests. Please reduce the rate of your requests.",
    ),
    "server_error": (500, "internal_error", "internal_server_error", "An internal server error occurred."),
    "overloaded": (
        503,
        "service_unavailable",
        "system_busy",
        "We are experiencing heavy traffic. Please try again later.",
    ),
}
NO_KEY = "Neither authorization header nor xi-api-key received, please provide one."
NOT_BOTH = "Multichannel mode does not support diarization and assigns speakers based on the channel they speak on."
MOST_CHANNELS = 5
TOO_MANY = "Multichannel mode supports up to 5 channels, but the audio file contains {} channels."
BOUNDARY = re.compile(r'boundary="?([^";]+)"?')
PART_NAME = re.compile(r'\bname="([^"]*)"')


@dataclass(frozen=True)
class TranscriptionRequest:
    """`timestamps`: whether the reply has the times of the words. `language`: used if the recording is not known.

    `apart`: whether each channel of a recording with more than one has a transcript of its own.
    """

    model: str
    audio: bytes
    diarize: bool
    apart: bool
    timestamps: bool
    language: str


@dataclass(frozen=True)
class SpeechToText:
    recordings: Recordings
    name: str = "elevenlabs"
    request_id_header: str = "request-id"

    def api_key(self, headers: Mapping[str, str]) -> str | None:
        return headers.get("xi-api-key") or None

    async def read(self, request: Request) -> TranscriptionRequest:
        form = _read_form(request.headers.get("content-type", ""), await request.body())
        for field in ("model_id", "file"):
            if not form.parts.get(field):
                raise Refusal("missing_field", field=field)
        apart, diarize = form.flag("use_multi_channel"), form.flag("diarize")
        if apart and diarize:
            raise Refusal("bad_request", NOT_BOTH)
        return TranscriptionRequest(
            model=form.text("model_id"),
            audio=form.parts["file"],
            diarize=diarize,
            apart=apart,
            timestamps=form.text("timestamps_granularity", "word") != "none",
            language=form.text("language_code"),
        )

    def traits(self, parsed: TranscriptionRequest) -> frozenset[str]:  # noqa: ARG002 (all requests have the same)
        return frozenset({"speech"})

    async def answer(self, parsed: TranscriptionRequest, number: int, damage: str) -> Reply:  # noqa: ARG002 (no damage)
        try:
            # In a thread: decoding a long recording would block every other request.
            transcripts = await asyncio.to_thread(self._transcripts, parsed)
        except Undecodable as problem:
            raise Refusal("undecodable") from problem
        body = Body.json(_format(parsed, transcripts, number))
        return Reply(body, audio_seconds=sum(transcript.seconds for transcript in transcripts))

    def _transcripts(self, parsed: TranscriptionRequest) -> list[Transcript]:
        """One transcript, or one for each of several channels."""
        count = channels(parsed.audio) if parsed.apart else 1
        if count == 1:
            return [self.recordings.transcribe(parsed.audio)]
        if count > MOST_CHANNELS:
            raise Refusal("bad_request", TOO_MANY.format(count))
        return [self.recordings.transcribe(parsed.audio, number) for number in range(count)]

    def models(self) -> object:
        return [{"model_id": model_name("any"), "name": "Simulator"}]

    def error(self, refusal: Refusal, request_id: str) -> tuple[int, object]:
        if refusal.kind == "missing_field":
            place = ["body", refusal.facts["field"]]
            return 422, {"detail": [{"type": "missing", "loc": place, "msg": "Field required", "input": None}]}
        status, kind, code, message = ERRORS[refusal.kind]
        detail = {"type": kind, "code": code, "status": code, "request_id": request_id, "param": None}
        message = NO_KEY if refusal.facts.get("missing") else refusal.message or message
        return status, {"detail": detail | {"message": message}}


def _format(request: TranscriptionRequest, transcripts: list[Transcript], number: int) -> dict[str, Any]:
    reply = {
        "transcription_id": f"simulator-{number:08d}",
        "audio_duration_secs": transcripts[0].seconds,
        "model": model_name(request.model),  # the vendor's reply has no such field: it shows that this one is simulated
    }
    if len(transcripts) == 1:
        return reply | _transcript(request, transcripts[0])
    by_channel = [_transcript(request, one) | {"channel_index": index} for index, one in enumerate(transcripts)]
    return reply | {"transcripts": by_channel}


def _transcript(request: TranscriptionRequest, transcript: Transcript) -> dict[str, Any]:
    return {
        "language_code": transcript.language or request.language or "und",
        "language_probability": 0.98 if transcript.language else 0.0,
        "text": _text(transcript.words),
        "words": [_word(word, request) for word in transcript.words],
    }


def _text(words: tuple[TranscriptWord, ...]) -> str:
    joint = " " if any(word.kind == "audio_event" for word in words) else ""
    return joint.join(word.text for word in words)


def _word(word: TranscriptWord, request: TranscriptionRequest) -> dict[str, Any]:
    return {
        "text": word.text,
        "start": word.start if request.timestamps else None,
        "end": word.end if request.timestamps else None,
        "type": word.kind,
        "speaker_id": word.speaker if request.diarize or request.apart else None,
        "logprob": word.logprob,
    }


@dataclass(frozen=True)
class Form:
    """The bytes of each part of a form by its name. If a name is repeated, the last part counts."""

    parts: dict[str, bytes]

    def text(self, name: str, default: str = "") -> str:
        return self.parts[name].decode(errors="replace") if name in self.parts else default

    def flag(self, name: str) -> bool:
        return self.text(name).lower() in ("true", "1")


def _read_form(content_type: str, body: bytes) -> Form:
    """Parse a multipart form. Raises Refusal for any other body."""
    boundary = BOUNDARY.search(content_type)
    if not content_type.startswith("multipart/form-data") or boundary is None:
        raise Refusal("bad_request", f"expected multipart/form-data, got {content_type or 'nothing'}")
    delimiter = b"\r\n--" + boundary[1].encode()
    sections = (b"\r\n" + body).split(delimiter)[1:]
    if not sections or not sections[-1].startswith(b"--"):
        raise Refusal("bad_request", "the closing boundary is missing")
    parts: dict[str, bytes] = {}
    for section in sections[:-1]:
        head, _, content = section.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = PART_NAME.search(head.decode(errors="replace"))
        if name:
            parts[name[1]] = content
    return Form(parts)
