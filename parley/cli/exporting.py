"""Write a labelling run's sessions to a file for other tools."""

import csv
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from parley.domain.auto_analyze.contract import ExportedSession
from parley.domain.errors import InvalidInput

# A spreadsheet takes a cell that begins so for a formula; a leading quote makes it text.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


async def write_sessions(sessions: AsyncIterator[ExportedSession], path: Path) -> int:
    """Write JSONL or CSV by the file's ending; returns how many sessions there were.

    The file appears when it is complete: one that was there before stays as it was until then.

    Raises:
        InvalidInput: the ending is another, or the file cannot be written.
    """
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise InvalidInput("must end in .jsonl or .csv", where=path.name)
    part, written = path.with_name(f"{path.name}.part"), 0
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            write = writer(file)
            async for session in sessions:
                write(session)
                written += 1
        part.replace(path)
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", where=str(path)) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return written


def _jsonl(file: TextIO) -> Callable[[ExportedSession], object]:
    return lambda session: file.write(session.model_dump_json() + "\n")


def _csv(file: TextIO) -> Callable[[ExportedSession], object]:
    rows = csv.DictWriter(file, list(ExportedSession.model_fields))
    rows.writeheader()
    return lambda session: rows.writerow(
        {name: _cell(value) for name, value in session.model_dump(mode="json").items()}
    )


WRITERS = {".jsonl": _jsonl, ".csv": _csv}


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
