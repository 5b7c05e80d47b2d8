"""Speech-to-text on this machine: word error rate, speakers, and CPU time, on real speech of Debian's packages.

The speech is of the package pocketsphinx-testdata: sentences of a reader of LibriVox, and names of cards by another
person. A conversation is made of both, each on a channel of its own, one after the other.
"""

import asyncio
import re
import time
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from rapidfuzz.distance import Levenshtein

from benchmarks.options import Figures, Options
from parley.audio import decode
from parley.domain.errors import InvalidInput
from parley.domain.hearing import channel_label
from parley.domain.requests import SpokenWord, TranscriptionReply, TranscriptionRequest
from parley.providers.local_speech import RATE, SHIPPED_MODEL, LocalSpeechAdapter

SPEECH = Path("/usr/share/pocketsphinx/test/data")
LINE = re.compile(r"<s>(.*)</s> \((.*)\)")
PAUSE = 0.4
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


class Spoken(NamedTuple):
    """A sentence: its text, its samples."""

    text: str
    samples: Any


async def measure(options: Options) -> Figures:  # noqa: ARG001 - it has no options
    reader, player = sentences()
    adapter = LocalSpeechAdapter()
    await _heard(adapter, reader[0].samples)  # loads the model
    alone, cpu_seconds = await _heard(adapter, _joined(reader))
    channels = conversation(reader, player)
    both, more = await _heard(adapter, *channels)
    seconds = len(_joined(reader)) / RATE + 2 * len(channels[0]) / RATE
    rights = [
        (_words(_text(sentences)), _of(both, channel_label(number))) for number, sentences in ((1, reader), (2, player))
    ]
    return {
        "a reader": {"words": len(_words(_text(reader))), "word error rate": _rate(_words(_text(reader)), _all(alone))},
        "two voices": {
            f"word error rate of channel {number}": _rate(said, heard)
            for number, (said, heard) in enumerate(rights, start=1)
        },
        "speakers": {"words on the channel of their speaker": _placed(both, channels)},
        "time": {"CPU seconds per minute of a channel": (cpu_seconds + more) / (seconds / 60)},
    }


def sentences() -> tuple[list[Spoken], list[Spoken]]:
    """The sentences of the two people.

    Raises:
        InvalidInput: the package is not installed.
    """
    if not SPEECH.is_dir():
        raise InvalidInput("is not installed: apt-get install pocketsphinx-testdata", where="the speech")
    return _read(SPEECH / "librivox" / "transcription"), _read(SPEECH / "cards" / "cards.transcription")


def _read(transcription: Path) -> list[Spoken]:
    found = [LINE.match(line) for line in transcription.read_text(encoding="utf-8").splitlines()]
    return [
        Spoken(line[1], decode((transcription.parent / f"{line[2]}.wav").read_bytes(), rate=RATE).channels[0])
        for line in found
        if line
    ]


def _text(sentences: list[Spoken]) -> str:
    return " ".join(one.text for one in sentences)


def _joined(sentences: list[Spoken]) -> Any:
    pause = np.zeros(round(PAUSE * RATE), np.float32)
    return np.concatenate([part for one in sentences for part in (one.samples, pause)])


def conversation(first: list[Spoken], second: list[Spoken]) -> tuple[Any, Any]:
    """Two channels, on which both speak in turn."""
    channels: tuple[list[Any], list[Any]] = ([], [])
    for pair in zip(first, second, strict=True):
        for number, one in enumerate(pair):
            samples = _joined([one])
            channels[number].append(samples)
            channels[1 - number].append(np.zeros_like(samples))
    return np.concatenate(channels[0]), np.concatenate(channels[1])


async def _heard(adapter: LocalSpeechAdapter, *channels: Any) -> tuple[TranscriptionReply, float]:
    """What is heard, and the CPU seconds of it."""
    audio = as_wav(channels)
    request = TranscriptionRequest(audio_sha256="benchmark", audio_seconds=1, channels=len(channels), audio=audio)
    began = time.process_time()
    reply = await asyncio.wait_for(adapter.call(request, SHIPPED_MODEL, "benchmark"), timeout=600)
    return reply, time.process_time() - began


def as_wav(channels: tuple[Any, ...], rate: int = RATE) -> bytes:
    """Channels of samples as a WAV file."""
    layout = "stereo" if len(channels) == 2 else "mono"
    buffer = BytesIO()
    with av.open(buffer, "w", format="wav") as file:
        stream: Any = file.add_stream("pcm_s16le", rate=rate, layout=layout)
        samples = (np.stack(channels).clip(-1, 1) * 32767).astype(np.int16).T.reshape(1, -1).copy()
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return buffer.getvalue()


def _words(text: str) -> list[str]:
    """Words without marks; `Mr.` and digits are written as they are said."""
    words = re.findall(r"[a-z]+|[0-9]+", text.lower().replace("mr.", "mister").replace("-", " "))
    return [NUMBERS[int(word)] if word.isdigit() and int(word) < len(NUMBERS) else word for word in words]


def _all(reply: TranscriptionReply) -> list[str]:
    return _words(" ".join(word.text for word in reply.words))


def _of(reply: TranscriptionReply, speaker: str) -> list[str]:
    return _words(" ".join(word.text for word in reply.words if word.speaker == speaker))


def _rate(said: list[str], heard: list[str]) -> float:
    return Levenshtein.distance(said, heard) / len(said)


def _placed(reply: TranscriptionReply, channels: tuple[Any, Any]) -> float:
    """The share of words whose channel is the one with sound at their middle."""
    return sum(_is_placed(word, channels) for word in reply.words) / len(reply.words)


def _is_placed(word: SpokenWord, channels: tuple[Any, Any]) -> bool:
    span = slice(int(word.start * RATE), int(word.end * RATE) + 1)
    loudest = max(range(2), key=lambda number: float(np.square(channels[number][span]).sum()))
    return word.speaker == channel_label(loudest + 1)
