"""ElevenLabs' speech-to-text."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from simulator.audio import Undecodable
from simulator.multipart import Form, NotMultipart, parse
from simulator.recordings import Heard, Recordings, Transcript
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


@dataclass(frozen=True)
class Recording:
    """A transcription that was asked for."""

    model: str
    audio: bytes
    diarize: bool
    timestamps: bool
    language: str


@dataclass(frozen=True)
class SpeechToText:
    recordings: Recordings
    name: str = "elevenlabs"
    request_id_header: str = "request-id"

    def key(self, headers: Mapping[str, str]) -> str | None:
        return headers.get("xi-api-key") or None

    async def read(self, request: Request) -> Recording:
        try:
            form = parse(request.headers.get("content-type", ""), await request.body())
        except NotMultipart as problem:
            raise Refusal("bad_request", str(problem)) from problem
        _require(form, "model_id")
        _require(form, "file")
        return Recording(
            model=form.text("model_id"),
            audio=form.parts["file"],
            diarize=form.flag("diarize"),
            timestamps=form.text("timestamps_granularity", "word") != "none",
            language=form.text("language_code"),
        )

    def traits(self, asked: Recording) -> frozenset[str]:  # noqa: ARG002 (every recording is alike)
        return frozenset({"speech"})

    async def answer(self, asked: Recording, number: int, damage: str) -> Reply:  # noqa: ARG002 (no fault shows here)
        try:
            # In a thread: decoding a long recording would stop every other request.
            transcript = await asyncio.to_thread(self.recordings.transcribe, asked.audio)
        except Undecodable as problem:
            raise Refusal("undecodable") from problem
        body = Body.json(_dress(asked, transcript, number))
        return Reply(body, audio_seconds=transcript.seconds)

    def models(self) -> object:
        return [{"model_id": model_name("any"), "name": "Simulator"}]

    def refuse(self, refusal: Refusal, request_id: str) -> tuple[int, object]:
        if refusal.kind == "missing_field":
            place = ["body", refusal.facts["field"]]
            return 422, {"detail": [{"type": "missing", "loc": place, "msg": "Field required", "input": None}]}
        status, kind, code, message = ERRORS[refusal.kind]
        detail = {"type": kind, "code": code, "status": code, "request_id": request_id, "param": None}
        message = NO_KEY if refusal.facts.get("missing") else refusal.message or message
        return status, {"detail": detail | {"message": message}}


def _require(form: Form, field: str) -> None:
    if not form.parts.get(field):
        raise Refusal("missing_field", field=field)


def _dress(asked: Recording, transcript: Transcript, number: int) -> dict[str, Any]:
    language = transcript.language or asked.language or "und"
    return {
        "language_code": language,
        "language_probability": 0.98 if transcript.language else 0.0,
        "text": _text(transcript.heard),
        "words": [_word(heard, asked) for heard in transcript.heard],
        "transcription_id": f"simulator-{number:08d}",
        "audio_duration_secs": transcript.seconds,
        "model": model_name(asked.model),  # not in the real reply: nothing here may pass for the vendor's,
    }


def _text(heard: tuple[Heard, ...]) -> str:
    joint = " " if any(item.kind == "audio_event" for item in heard) else ""
    return joint.join(item.text for item in heard)


def _word(heard: Heard, asked: Recording) -> dict[str, Any]:
    return {
        "text": heard.text,
        "start": heard.start if asked.timestamps else None,
        "end": heard.end if asked.timestamps else None,
        "type": heard.kind,
        "speaker_id": heard.speaker if asked.diarize else None,
        "logprob": heard.logprob,
    }
