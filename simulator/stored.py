"""Completions that were asked for with `store`: they can be listed, whatever became of their delivery."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.lines import JsonLines

Completion = dict[str, Any]
USUAL_LIMIT = 20


@dataclass(frozen=True)
class Wanted:
    """Which stored completions a listing asks for. `after`: the id of the last one on the page before."""

    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    model: str | None = None
    after: str | None = None
    limit: int = USUAL_LIMIT
    descending: bool = False

    def matches(self, completion: Completion) -> bool:
        known = completion["metadata"]
        return self.model in (None, completion["model"]) and all(
            known.get(name) == value for name, value in self.metadata.items()
        )


class StoredCompletions:
    """In order of arrival, in memory and, if asked, in a file that the next simulator reads."""

    def __init__(self, path: Path | None = None) -> None:
        self._lines = JsonLines(path)
        self._completions: dict[str, Completion] = {line["id"]: line for line in self._lines.read() if "id" in line}
        self._lines.open()

    def add(self, completion: Completion) -> None:
        self._completions[completion["id"]] = completion
        self._lines.write(completion)

    def get(self, id_: str) -> Completion | None:
        return self._completions.get(id_)

    def page(self, wanted: Wanted) -> tuple[list[Completion], bool]:
        """One page, and whether there are more."""
        found = [completion for completion in self._completions.values() if wanted.matches(completion)]
        found = found[::-1] if wanted.descending else found
        ids = [completion["id"] for completion in found]
        start = ids.index(wanted.after) + 1 if wanted.after in ids else 0
        return found[start : start + wanted.limit], len(found) > start + wanted.limit

    def reset(self) -> None:
        self._completions.clear()
        self._lines.clear()

    def close(self) -> None:
        self._lines.close()
