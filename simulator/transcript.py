"""The lines of a transcript in a prompt: `[mm:ss] role: text`, one turn a line."""

import re
from dataclasses import dataclass

LINE = re.compile(
    r"^[ \t]*\[(?:(\d+):)?(\d{1,3}):(\d{2})(?:\.\d+)?\][ \t]*([A-Za-z]{1,20}):[ \t]*(\S.*)$", re.MULTILINE
)
TAGGED = re.compile(r"<transcript[^>]*>(.*)</transcript>", re.DOTALL)


@dataclass(frozen=True)
class Line:
    at: int
    is_rep: bool
    text: str

    @property
    def time(self) -> str:
        return f"{self.at // 60:02d}:{self.at % 60:02d}"


def parse(prompt: str) -> list[Line]:
    """The turns of the transcript; of a prompt with <transcript> tags, those inside."""
    tagged = TAGGED.search(prompt)
    return [
        Line(int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds), role.lower() == "rep", text.strip())
        for hours, minutes, seconds, role, text in LINE.findall(tagged[1] if tagged else prompt)
    ]
