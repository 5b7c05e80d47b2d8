"""Subtitles: WebVTT as Zoom, Teams and Meet write it, and SRT. They have times of lines, not of words.

https://www.w3.org/TR/webvtt1/
"""

import re
from collections import Counter
from html import unescape
from itertools import pairwise

from parley.domain.errors import InvalidInput
from parley.domain.hearing import Passage, Transcript
from parley.domain.session import MAX_SESSION_SECONDS
from parley.domain.word_times import spread

TIME = r"(?:(\d{1,2}):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
TIMING = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}(?:\s.*)?")
HEADER = re.compile(r"\ufeff?WEBVTT(?:\s|$)")
# Blocks of WebVTT that are not spoken.
UNSPOKEN = re.compile(r"(NOTE|STYLE|REGION)(?:\s|$)")
VOICE = re.compile(r"<v(?:\.[^ >]*)?\s+([^>]+)>")
TAG = re.compile(r"<[^>]*>")
# `Ann Lee: hello`, as Zoom writes it: a name of at most five words, a number or an address; a company may follow, as
# in `Ann Lee (she/her) | Acme`. A sentence with a colon in it begins with more words.
NAME = r"(?:[^\W\d_]|[(@#*]|\+?\d{5})[\w.'’()@+*#-]*(?: [\w.'’()@+*#&-]+){0,4}(?:\s*[(|/][^:]{1,60})?"
NAMED = re.compile(rf"(?:-\s*)?({NAME}):\s+(?=\S)")
# `Lee, Ann: hello`, as directories of companies have names. "Yes, Ann: that is right" looks like one, so that the
# names of a file have this form only where one of them is there twice.
REVERSED = rf"(?:[^\W\d_][\w.'’-]*(?: [\w.'’-]+){{0,3}}, )?{NAME}"
REVERSED_NAMED = re.compile(rf"(?:-\s*)?({REVERSED}):\s+(?=\S)")
# The first line of a cue has a name. A further one belongs to it, unless a dash shows that another person speaks.
NAMED_AGAIN = re.compile(rf"-\s*({NAME}):\s+(?=\S)")


def are_subtitles(text: str) -> bool:
    """Whether a text has WebVTT's header, or begins as SRT does."""
    first = [line for line in text.removeprefix("\ufeff").splitlines() if line.strip()][:2]
    return bool(HEADER.match(text)) or any(TIMING.fullmatch(line) for line in first)


def read(text: str, where: str) -> Transcript:
    """The cues of a file.

    Raises:
        InvalidInput: a time is wrong; the error names the line.
    """
    passages: list[Passage] = []
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    named = _form_of_names(lines)
    number = 0
    while number < len(lines):
        end = next((at for at in range(number, len(lines)) if not lines[at].strip()), len(lines))
        timing = next((at for at in range(number, end) if "-->" in lines[at]), None)
        if timing is not None and not UNSPOKEN.match(lines[number]):
            passages += _cue(lines[timing], lines[timing + 1 : end], where, timing + 1, named)
        number = end + 1
    return Transcript(passages=tuple(_named_on(passages)))


def _form_of_names(lines: list[str]) -> re.Pattern[str] | None:
    """How the first line of a cue names its speaker; None: the file has no names.

    "So the question is: can we?" begins as a name does. A file has names where one of them is there twice, or half of
    the cues have one.
    """
    first = [TAG.sub("", line).strip() for above, line in pairwise(lines) if "-->" in above]
    reversed_names = [found[1] for line in first if (found := REVERSED_NAMED.match(line)) and ", " in found[1]]
    if _is_repeated(reversed_names):
        return REVERSED_NAMED
    names = [found[1] for line in first if (found := NAMED.match(line))]
    return NAMED if _is_repeated(names) or 2 * len(names) >= len(first) else None


def _is_repeated(names: list[str]) -> bool:
    return any(count > 1 for count in Counter(names).values())


def _cue(timing: str, lines: list[str], where: str, number: int, named: re.Pattern[str] | None) -> list[Passage]:
    found = TIMING.fullmatch(timing)
    if found is None:
        raise InvalidInput("is not a time: write 00:00:01.000 --> 00:00:04.000", where=where, field=f"line {number}")
    start, end = _seconds(found.groups()[:4]), _seconds(found.groups()[4:])
    if end < start or end > MAX_SESSION_SECONDS:
        problem = f"ends at {end:g} s before it starts at {start:g} s" if end < start else "is too late"
        raise InvalidInput(problem, where=where, field=f"line {number}")
    voices = _voices(" ".join(line.strip() for line in lines), lines, named)
    placed = spread([text for _, text in voices], start, end)
    return [
        Passage(speaker=speaker, start=round(part.start, 3), end=round(part.end, 3), text=part.text)
        for (speaker, _), part in zip(voices, placed, strict=True)
    ]


def _voices(joined: str, lines: list[str], named: re.Pattern[str] | None) -> list[tuple[str, str]]:
    """What each speaker says in a cue: by tags of voices, or by the names at the beginnings of its lines."""
    tags = list(VOICE.finditer(joined))
    ends = [*(tag.start() for tag in tags[1:]), len(joined)]
    tagged = [(tag[1], joined[tag.end() : end]) for tag, end in zip(tags, ends, strict=False)]
    said = tagged or _named_lines([TAG.sub("", line).strip() for line in lines], named)
    cleaned = [(unescape(speaker).strip(), unescape(TAG.sub("", text)).strip()) for speaker, text in said]
    return [(speaker, text) for speaker, text in cleaned if text]


def _named_lines(lines: list[str], named: re.Pattern[str] | None) -> list[tuple[str, str]]:
    if named is None:
        return [("", " ".join(lines))]
    said: list[tuple[str, str]] = []
    for number, line in enumerate(lines):
        found = (NAMED_AGAIN if number else named).match(line)
        if found:
            said.append((found[1], line[found.end() :]))
        elif said:
            said[-1] = (said[-1][0], f"{said[-1][1]} {line}")
        else:
            said.append(("", line))
    return said


def _named_on(passages: list[Passage]) -> list[Passage]:
    """A cue without a name goes on with the last speaker, if there are names at all."""
    named: list[Passage] = []
    for passage in passages:
        speaker = passage.speaker or (named[-1].speaker if named else "")
        named.append(passage.model_copy(update={"speaker": speaker}))
    return named


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction}")
