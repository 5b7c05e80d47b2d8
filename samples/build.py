"""Builds the sample sessions from their hand-written sources: `python -m samples.build [folder]`.

A source is a header of `key: value` lines, an empty line, then the turns. A turn has the form
`role [+gap] [xpace]: text`. The gap is the silence before it in seconds; the pace is a factor. Indented lines continue
a turn, and `[0.4]` in the text is a pause in seconds.

The times of the words are computed from their syllables, the speaker's pace (syllables per second) and the
punctuation, with a variation that depends only on the word and its position. The same source gives the same bytes.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "sources"

TURN = re.compile(r"(?P<role>rep|prospect)(?: (?P<gap>[+-][\d.]+))?(?: x(?P<pace>[\d.]+))?: (?P<text>.+)")
PAUSE = re.compile(r"\[([\d.]+)\]")
SYLLABLE = re.compile(r"[aeiouyáéíóúü]+|\d")

FILLERS = {"um", "uh", "eh", "mm", "hm"}
PAUSES = {",": 0.16, ";": 0.3, ":": 0.34, ".": 0.46, "?": 0.42, "!": 0.4, "—": 0.0}
ELLIPSIS_PAUSE = 0.6
TAIL_SECONDS = 0.7


@dataclass(frozen=True)
class Line:
    """One turn of a source. `gap`: seconds before it. `tokens`: its words and `[pause]` marks."""

    role: str
    gap: float | None
    pace: float
    tokens: list[str]

    @property
    def text(self) -> str:
        return " ".join(token for token in self.tokens if not PAUSE.fullmatch(token))


@dataclass(frozen=True)
class Source:
    name: str
    header: dict[str, str]
    lines: list[Line]

    @property
    def recorded(self) -> bool:
        """Whether the session has a synthesised recording, from which its times are taken (samples/synthesise.py)."""
        return "rep_voice" in self.header


def read(path: Path) -> Source:
    head, _, body = path.read_text(encoding="utf-8").partition("\n\n")
    header = dict(line.split(": ", 1) for line in head.splitlines())
    turns = re.sub(r"\n +", " ", body).splitlines()
    return Source(path.stem, header, [_line(turn) for turn in turns if turn])


def _line(written: str) -> Line:
    found = TURN.fullmatch(written)
    if found is None:
        raise ValueError(f"must be `role [+gap] [xpace]: text`: {written[:60]!r}")
    gap = float(found["gap"]) if found["gap"] else None
    return Line(found["role"], gap, float(found["pace"] or 1), found["text"].split())


def chance(*key: object) -> float:
    """Return a number in [0, 1) that depends only on the key."""
    return crc32(repr(key).encode()) / 2**32


def word_seconds(word: str, pace: float, variation: float) -> float:
    bare = word.lower().strip('.,;:?!—"¿¡')
    syllables = max(1, len(SYLLABLE.findall(bare)))
    stretch = 1.9 if bare in FILLERS else 1.2 if word[-1] in PAUSES else 1.0
    return (0.3 + 0.8 * syllables) / pace * stretch * (0.85 + 0.3 * variation)


def pause_after(word: str, variation: float) -> float:
    ending = word.rstrip('"')
    pause = ELLIPSIS_PAUSE if ending.endswith("...") else PAUSES.get(ending[-1], 0.02)
    return pause * (0.6 + 0.8 * variation)


def speak(line: Line, start: float, pace: float, seed: object) -> Iterator[dict[str, Any]]:
    """Yield the words of one turn with their times."""
    at = start
    for place, token in enumerate(line.tokens):
        if mark := PAUSE.fullmatch(token):
            at += float(mark[1])
            continue
        end = at + word_seconds(token, pace * line.pace, chance(seed, place, token))
        yield {"text": token, "start": round(at, 2), "end": round(end, 2)}
        at = end + pause_after(token, chance(seed, place, token, "pause"))


def turn(line: Line, words: list[dict[str, Any]]) -> dict[str, Any]:
    start, end = words[0]["start"], words[-1]["end"]
    return {"role": line.role, "start": start, "end": end, "text": line.text, "words": words}


def timed_turns(source: Source) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    at = 0.0
    for number, line in enumerate(source.lines):
        seed = (source.name, number)
        gap = line.gap if line.gap is not None else 0.3 + 0.5 * chance(seed, "gap")
        words = list(speak(line, at + gap, float(source.header[f"{line.role}_pace"]), seed))
        turns.append(turn(line, words))
        at = words[-1]["end"]
    return turns


def session(source: Source, turns: list[dict[str, Any]], duration: float) -> dict[str, Any]:
    names = ("user_id", "prospect_id", "scenario", "language")
    header = {key: source.header[key] for key in names if key in source.header}
    return {"session_id": source.name, **header, "duration_seconds": round(duration, 2), "turns": turns}


def render(content: dict[str, Any]) -> str:
    """Return the session as JSON with one turn on each line."""
    head = {key: value for key, value in content.items() if key != "turns"}
    turns = ",\n".join(f"    {json.dumps(item, ensure_ascii=False)}" for item in content["turns"])
    opening = json.dumps(head, ensure_ascii=False, indent=2).removesuffix("\n}")
    return f'{opening},\n  "turns": [\n{turns}\n  ]\n}}\n'


def write(folder: Path, content: dict[str, Any]) -> None:
    (folder / f"{content['session_id']}.json").write_text(render(content), encoding="utf-8")


def build(folder: Path) -> None:
    for path in sorted(SOURCES.glob("*.txt")):
        source = read(path)
        if not source.recorded:
            turns = timed_turns(source)
            write(folder, session(source, turns, turns[-1]["end"] + TAIL_SECONDS))


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
