"""The recordings whose transcripts are known, by the hash of their bytes."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import log
from pathlib import Path
from typing import Any

from simulator.audio import activity
from simulator.wording import Wording

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
class Heard:
    """One word or sound. `kind` is ElevenLabs' own: word, spacing or audio_event."""

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
    heard: tuple[Heard, ...]


class Recordings:
    def __init__(self, directories: Iterable[Path], seed: int) -> None:
        self._wording = Wording(seed)
        self._known: dict[str, Mapping[str, Any]] = {}
        for directory in directories:
            self._known |= dict(_sessions(directory))

    def transcribe(self, data: bytes) -> Transcript:
        """A known recording's transcript; of any other, when somebody speaks, without inventing words."""
        session = self._known.get(sha256(data).hexdigest())
        if session is not None:
            return self._known_transcript(session)
        found = activity(data)
        heard = tuple(Heard("(speech)", part.start, part.end, "audio_event") for part in found.segments)
        return Transcript(found.seconds, "", heard)

    def _known_transcript(self, session: Mapping[str, Any]) -> Transcript:
        turns = session["turns"]
        speakers = {role: f"speaker_{n}" for n, role in enumerate(dict.fromkeys(turn["role"] for turn in turns))}
        words: list[Heard] = []
        for turn in turns:
            for text, start, end in _words(turn):
                if words:
                    words.append(Heard(" ", words[-1].end, max(start, words[-1].end), "spacing", words[-1].speaker))
                words.append(self._word(text, start, end, speakers[turn["role"]]))
        seconds = float(session.get("duration_seconds") or turns[-1]["end"])
        language = str(session.get("language") or "en")
        return Transcript(seconds, LANGUAGES.get(language, language), tuple(words))

    def _word(self, text: str, start: float, end: float, speaker: str) -> Heard:
        confidence = self._wording.number(80, 99, text, start) / 100
        return Heard(text, start, end, "word", speaker, round(log(confidence), 4))


def _sessions(directory: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each recording's hash with the session in the JSON file of the same stem beside it."""
    for path in sorted(directory.glob("*.json")):
        for recording in (path.with_suffix(suffix) for suffix in SUFFIXES):
            session = _session(path) if recording.exists() else None
            if session is not None:
                yield sha256(recording.read_bytes()).hexdigest(), session


def _session(path: Path) -> Mapping[str, Any] | None:
    """The session, or None with a warning for a file that is none: other JSON may lie beside recordings."""
    try:
        session = json.loads(path.read_text(encoding="utf-8"))
        if session["turns"] and all(turn["text"] and turn["role"] for turn in session["turns"]):
            return session
    except (ValueError, KeyError, TypeError):
        pass
    logger.warning("%s is no session; its recording will be treated as unknown", path.name)
    return None


def _words(turn: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """The turn's words with their times; without times, spread over the turn by their length."""
    if turn.get("words"):
        yield from ((word["text"], float(word["start"]), float(word["end"])) for word in turn["words"])
        return
    words, at = turn["text"].split(), float(turn["start"])
    per_letter = (float(turn["end"]) - at) / max(1, sum(map(len, words)))
    for word in words:
        end = at + per_letter * len(word)
        yield word, round(at, 3), round(end, 3)
        at = end
