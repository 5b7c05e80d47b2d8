"""A file of JSON lines that outlives its writer: a line that a kill cut short is passed over."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


class JsonLines:
    """Without a path, nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def read(self) -> Iterator[dict[str, Any]]:
        if self._path is None or not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value

    def open(self) -> None:
        """Write from now on, on a new line whatever a kill has left there."""
        if self._path is None:
            return
        is_whole = not self._path.exists() or self._path.read_bytes()[-1:] in (b"", b"\n")
        self._file = self._path.open("a", encoding="utf-8")
        if not is_whole:
            self._file.write("\n")

    def write(self, value: object) -> None:
        if self._file:
            self._file.write(json.dumps(value) + "\n")
            self._file.flush()

    def clear(self) -> None:
        if self._file:
            self._file.truncate(0)

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
