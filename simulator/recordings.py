"""Transcribes recordings: known ones, found by the hash of their bytes, with words; others with stretches of speech."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from math import log
from pathlib import Path
from typing import Any

from simulator.audio import activity
from simulator.seeded import SeededChoice

SUFFIXES = (".wav", ".ogg", ".mp3", ".flac")
LANGUAGES = {
    "en": "eng",
    "cs": "ces",
    "de": "deu",
    "es": "spa",
    "fr": "fra",
    "it": "ita",
    "pl": "pol",
    "pt": "por",
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TranscriptWord:
    """One word or sound, in seconds from the start. `kind`, as in ElevenLabs' API: word, spacing or audio_event."""

    text: str
    start: float
    end: float
    kind: str = "word"
    speaker: str | None = None
    logprob: float = 0.0


@dataclass(frozen=True)
class Transcript:
    seconds: float
    language: str
    words: tuple[TranscriptWord, ...]


class Recordings:
    def __init__(self, directories: Iterable[Path], seed: int) -> None:
        self._choice = SeededChoice(seed)
        self._known: dict[str, Mapping[str, Any]] = {}
        for directory in directories:
            self._known |= dict(_sessions(directory))

    def transcribe(self, data: bytes, channel: int | None = None) -> Transcript:
        """Return the transcript of a known recording. For any other, return the stretches of speech, without words.

        Args:
            data: the recording.
            channel: the number of the channel to transcribe, from 0; None: all channels as one. The speakers of a known
                recording are on the channels in the order in which they first speak.

        Raises:
            Undecodable: an unknown recording is not audio.
        """
        session = self._known.get(sha256(data).hexdigest())
        if session is not None:
            known = self._known_transcript(session)
            return known if channel is None else _of_speaker(known, f"speaker_{channel}")
        found = activity(data, channel)
        words = tuple(TranscriptWord("(speech)", part.start, part.end, "audio_event") for part in found.segments)
        return Transcript(found.seconds, "", words)

    def _known_transcript(self, session: Mapping[str, Any]) -> Transcript:
        turns = session["turns"]
        speakers = {role: f"speaker_{n}" for n, role in enumerate(dict.fromkeys(turn["role"] for turn in turns))}
        words: list[TranscriptWord] = []
        for turn in turns:
            for text, start, end in _words(turn):
                if words:
                    before = words[-1]
                    words.append(TranscriptWord(" ", before.end, max(start, before.end), "spacing", before.speaker))
                words.append(self._word(text, start, end, speakers[turn["role"]]))
        seconds = float(session.get("duration_seconds") or turns[-1]["end"])
        language = str(session.get("language") or "en")
        return Transcript(seconds, LANGUAGES.get(language, language), tuple(words))

    def _word(self, text: str, start: float, end: float, speaker: str) -> TranscriptWord:
        confidence = self._choice.number(80, 99, text, start) / 100
        return TranscriptWord(text, start, end, "word", speaker, round(log(confidence), 4))


def _of_speaker(transcript: Transcript, speaker: str) -> Transcript:
    return replace(transcript, words=tuple(word for word in transcript.words if word.speaker == speaker))


def _sessions(directory: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the hash of each recording with the session in the JSON file that has the same name beside it."""
    for path in sorted(directory.glob("*.json")):
        for recording in (path.with_suffix(suffix) for suffix in SUFFIXES):
            session = _session(path) if recording.exists() else None
            if session is not None:
                yield sha256(recording.read_bytes()).hexdigest(), session


def _session(path: Path) -> Mapping[str, Any] | None:
    """Read a session. Other JSON files may be beside recordings: for those, log a warning and return None."""
    try:
        session = json.loads(path.read_text(encoding="utf-8"))
        if session["turns"] and all(turn["text"] and turn["role"] for turn in session["turns"]):
            return session
    except (ValueError, KeyError, TypeError):
        pass
    logger.warning("%s is not a session; its recording is treated as unknown", path.name)
    return None


def _words(turn: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Yield the words of a turn with their times. Words without times share the turn's time by their length."""
    if turn.get("words"):
        yield from ((word["text"], float(word["start"]), float(word["end"])) for word in turn["words"])
        return
    words, at = turn["text"].split(), float(turn["start"])
    per_letter = (float(turn["end"]) - at) / max(1, sum(map(len, words)))
    for word in words:
        end = at + per_letter * len(word)
        yield word, round(at, 3), round(end, 3)
        at = end
