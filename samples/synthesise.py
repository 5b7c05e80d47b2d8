"""Synthesises the recorded samples with espeak-ng and measures the times of their words in the audio.

Run `python -m samples.synthesise` only to make a recording again. It needs libespeak-ng and sox. A source is recorded
if its header names voices: `rep_voice: <voice> <words per minute> <pitch>`.
"""

import ctypes
import ctypes.util
import itertools
import subprocess
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.build import HERE, SOURCES, TAIL_SECONDS, Line, Source, read, session, turn, write

OUTPUT_RETRIEVAL, POSITION_CHARACTER, CHARS_UTF8 = 1, 1, 1
EVENT_END_OF_LIST, EVENT_WORD = 0, 1
PARAMETER_RATE, PARAMETER_PITCH = 1, 3
AUDIBLE = 250  # of 32767
SAMPLE_RATE = 16_000


class Event(ctypes.Structure):
    """The struct espeak_EVENT of espeak-ng/speak_lib.h. Its last field is a union of eight bytes."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))


class Synthesiser:
    """Turns text into samples with espeak-ng.

    Raises:
        RuntimeError: espeak-ng cannot be initialised.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
        self.rate: int = self._library.espeak_Initialize(OUTPUT_RETRIEVAL, 0, None, 0)
        if self.rate <= 0:
            raise RuntimeError("espeak-ng cannot be initialised: install libespeak-ng and its voices")
        self._callback = CALLBACK(self._receive)  # an attribute, because the library does not hold a reference to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self._samples.extend(samples[:count])
        for event in itertools.takewhile(lambda event: event.type != EVENT_END_OF_LIST, events):
            if event.type == EVENT_WORD:
                self._begins[event.text_position - 1] = event.audio_position * self.rate // 1000
        return 0

    def say(self, text: str, voice: str) -> tuple[array, dict[int, int]]:
        """Return the samples, and the number of the sample at which each position of the text begins."""
        name, rate, pitch = voice.split()
        self._samples, self._begins = array("h"), {}
        self._library.espeak_SetVoiceByName(name.encode())
        self._library.espeak_SetParameter(PARAMETER_RATE, int(rate), 0)
        self._library.espeak_SetParameter(PARAMETER_PITCH, int(pitch), 0)
        written = text.encode() + b"\0"
        self._library.espeak_Synth(written, len(written), 0, POSITION_CHARACTER, 0, CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        return self._samples, self._begins


def groups(line: Line, begins: dict[int, int]) -> list[tuple[int, list[str]]]:
    """Return the words by the sample at which they begin. espeak-ng speaks some pairs ("with the") as one word."""
    found: list[tuple[int, list[str]]] = []
    place = 0
    for token in line.tokens:
        if place in begins:
            found.append((begins[place], []))
        found[-1][1].append(token)
        place += len(token) + 1
    return found


def audible(samples: array, start: int, end: int) -> tuple[int, int]:
    """Return the first and the last audible sample between two samples."""
    loud = [at for at in range(start, end) if abs(samples[at]) > AUDIBLE]
    return loud[0], loud[-1]


def spread(tokens: list[str], start: float, end: float) -> Iterator[dict[str, Any]]:
    """Yield words that were spoken as one. They share its time by their number of letters."""
    per_letter = (end - start) / sum(map(len, tokens))
    for token in tokens:
        until = start + per_letter * len(token)
        yield {"text": token, "start": round(start, 2), "end": round(until, 2)}
        start = until


def measured(line: Line, clip: array, begins: dict[int, int], rate: int, offset: float) -> Iterator[dict[str, Any]]:
    """Yield the words with their times. The clip starts at `offset` seconds."""
    spoken = groups(line, begins)
    ends = [*(begin for begin, _ in spoken[1:]), len(clip)]
    for (begin, tokens), end in zip(spoken, ends, strict=True):
        first, last = audible(clip, begin, end)
        yield from spread(tokens, offset + first / rate, offset + last / rate)


def record(source: Source, synthesiser: Synthesiser) -> tuple[array, list[dict[str, Any]]]:
    """Return the whole conversation as samples, and its turns with the measured times."""
    track, turns = array("h"), []
    for line in source.lines:
        clip, begins = synthesiser.say(line.text, source.header[f"{line.role}_voice"])
        first, last = audible(clip, 0, len(clip))
        track.extend(silence(line.gap or 0, synthesiser.rate))
        offset = (len(track) - first) / synthesiser.rate
        turns.append(turn(line, list(measured(line, clip, begins, synthesiser.rate, offset))))
        track.extend(clip[first : last + 1])
    track.extend(silence(TAIL_SECONDS, synthesiser.rate))
    return track, turns


def silence(seconds: float, rate: int) -> array:
    return array("h", bytes(2 * round(seconds * rate)))


def encode(track: array, rate: int, path: Path) -> None:
    raw = ["-t", "raw", "-r", str(rate), "-e", "signed", "-b", "16", "-c", "1", "-"]
    output = ["-r", str(SAMPLE_RATE), "-C", "1", str(path), "gain", "-2"]
    subprocess.run(["sox", *raw, *output], input=track.tobytes(), check=True)  # noqa: S603, S607


def main() -> None:
    synthesiser = Synthesiser()
    for source in map(read, sorted(SOURCES.glob("*.txt"))):
        if source.recorded:
            track, turns = record(source, synthesiser)
            encode(track, synthesiser.rate, HERE / f"{source.name}.ogg")
            write(HERE, session(source, turns, len(track) / synthesiser.rate))


if __name__ == "__main__":
    main()
