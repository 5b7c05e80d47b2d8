"""Write a labelling run's sessions to a file for other tools."""

import csv
from collections.abc import AsyncIterator
from pathlib import Path

from domain.auto_analyze.contract import ExportedSession
from domain.errors import InvalidInput

# A spreadsheet takes a cell that begins so for a formula; a leading quote makes it text.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


async def write_sessions(sessions: AsyncIterator[ExportedSession], path: Path) -> int:
    """Write JSONL or CSV by the file's ending; returns how many sessions there were.

    Raises:
        InvalidInput: the ending is another, or the file cannot be written.
    """
    if path.suffix.lower() not in (".jsonl", ".csv"):
        raise InvalidInput("must end in .jsonl or .csv", where=path.name)
    written = 0
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.DictWriter(file, list(ExportedSession.model_fields)) if path.suffix.lower() == ".csv" else None
            if rows:
                rows.writeheader()
            async for session in sessions:
                if rows:
                    rows.writerow({name: _cell(value) for name, value in session.model_dump(mode="json").items()})
                else:
                    file.write(session.model_dump_json() + "\n")
                written += 1
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", where=str(path)) from None
    return written


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
