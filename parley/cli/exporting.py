"""Files for other tools: a labelling run's sessions, a report's lines."""

import csv
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

from parley import ExportedSession, InvalidInput, Summary
from parley.cli.console import err, printable
from parley.domain.reports import Spend

# A spreadsheet reads a cell that begins like this as a formula; a leading quote makes it text.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


async def write_sessions(sessions: AsyncIterator[ExportedSession], path: Path) -> int:
    """Write JSONL or CSV, by the file's ending; returns the number of sessions.

    The file is replaced only when the new one is complete.

    Raises:
        InvalidInput: the name has another ending, or the file cannot be written.
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


def write_csv(found: Any, to: str) -> None:
    """Write one row per line of the report; a summary has a row per figure.

    Raises:
        InvalidInput: the file cannot be written.
    """
    rows = [*csv_rows(found)]
    text = StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if to == "-":
        sys.stdout.write(printable(text.getvalue()))
        return
    try:
        Path(to).write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", where=to) from None
    err.say(f"{len(rows)} rows written to {to}")


def csv_rows(found: Any) -> Iterator[dict[str, Any]]:
    if isinstance(found, Summary):
        for figure, value in flat(found.model_dump(mode="json", exclude={"models", "errors"})):
            yield {"figure": figure, "value": value}
        return
    for line in found.lines:
        row = dict(flat(line.model_dump(mode="json")))
        # The subject of a line comes first, its costs last.
        yield {name: row[name] for name in sorted(row, key=lambda name: name in Spend.model_fields)}


def flat(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested figures, with dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", _cell(value)
