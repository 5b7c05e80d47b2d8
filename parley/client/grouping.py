"""Groups the parts of sessions that a file mixes, in a database on the disk: memory does not grow with the file."""

import json
import sqlite3
from collections.abc import Iterator
from itertools import groupby
from types import TracebackType
from typing import Any, NamedTuple, Self

WRITTEN_AT_ONCE = 1000


class Piece(NamedTuple):
    """A part of a session: the file, line and place it is from, and its content."""

    file: int
    line: int
    place: str
    data: dict[str, Any]


class Groups:
    """Parts of sessions by key, in the order in which the keys were first seen. Its temporary file has no name."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._waiting: list[tuple[str, int, int, str, str]] = []
        self._database.execute("CREATE TABLE keys (place INTEGER PRIMARY KEY, key TEXT UNIQUE)")
        self._database.execute("CREATE TABLE pieces (key TEXT, file INTEGER, line INTEGER, place TEXT, data TEXT)")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add(self, key: str, piece: Piece) -> None:
        """Add a part to the session of a key."""
        self._waiting.append((key, piece.file, piece.line, piece.place, json.dumps(piece.data)))
        if len(self._waiting) >= WRITTEN_AT_ONCE:
            self._write()

    def __iter__(self) -> Iterator[tuple[str, list[Piece]]]:
        """Each key with its parts in the order in which they were added."""
        self._write()
        self._database.execute("CREATE INDEX pieces_by_key ON pieces (key)")
        query = (
            "SELECT keys.key, file, line, pieces.place, data FROM keys JOIN pieces ON pieces.key = keys.key "
            "ORDER BY keys.place, pieces.rowid"
        )
        for key, rows in groupby(self._database.execute(query), key=lambda row: row[0]):
            yield key, [Piece(file, line, place, json.loads(data)) for _, file, line, place, data in rows]

    def _write(self) -> None:
        self._database.executemany("INSERT OR IGNORE INTO keys (key) VALUES (?)", [(row[0],) for row in self._waiting])
        self._database.executemany("INSERT INTO pieces VALUES (?, ?, ?, ?, ?)", self._waiting)
        self._waiting.clear()
