"""Files for other tools: a labelling run's sessions, a report's lines."""

import csv
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from io import StringIO
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from parley import ExportedSession, InvalidInput, Summary
from parley.cli.console import err, printable
from parley.cli.display import counted
from parley.domain.reports import Spend

# A spreadsheet reads a cell that begins like this as a formula; a leading quote makes it text.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
NUMBER = re.compile(r"-\d+(?:\.\d+)?(?:[Ee][+-]?\d+)?")


async def write_sessions(sessions: AsyncIterator[ExportedSession], path: Path) -> int:
    """Write JSONL, CSV or Parquet, by the file's ending; returns the number of sessions.

    The file is replaced only when the new one is complete.

    Raises:
        InvalidInput: the name has another ending, the file cannot be written, or Parquet's library is not installed.
    """
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise InvalidInput("must end in .jsonl, .csv or .parquet", where=path.name)
    written = 0
    with replacing(path) as part, writer(part) as write:
        async for session in sessions:
            write(session)
            written += 1
    return written


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file that replaces the one at `path` once it is complete: at the end of the block.

    Raises:
        InvalidInput: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", where=str(path)) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


Write = Callable[[ExportedSession], object]


@contextmanager
def _jsonl(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        yield lambda session: file.write(session.model_dump_json() + "\n")


@contextmanager
def _csv(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, list(ExportedSession.model_fields))
        rows.writeheader()
        yield lambda session: rows.writerow(
            {name: _cell(value) for name, value in session.model_dump(mode="json").items()}
        )


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    """Rows are written in groups of `ROWS_IN_GROUP`, so that memory does not grow with the run."""
    try:
        from pyarrow import Table, bool_, int32, schema, string  # noqa: PLC0415 - an extra, which takes long to load
        from pyarrow.parquet import ParquetWriter  # noqa: PLC0415
    except ModuleNotFoundError:
        raise InvalidInput("is not installed: pip install 'parley[parquet]'", where="pyarrow") from None

    kinds = {bool: bool_(), int: int32()}
    types = ((name, _only(field.annotation)) for name, field in ExportedSession.model_fields.items())
    columns = schema([(name, kinds.get(kind, string())) for name, kind in types])
    rows: list[dict[str, Any]] = []

    with path.open("wb") as file, ParquetWriter(file, columns) as target:

        def write_group() -> None:
            target.write_table(Table.from_pylist(rows, schema=columns))
            rows.clear()

        def write(session: ExportedSession) -> None:
            rows.append(session.model_dump(mode="json"))
            if len(rows) >= ROWS_IN_GROUP:
                write_group()

        yield write
        if rows:
            write_group()


def _only(annotation: Any) -> Any:
    """The type of a field without None."""
    return next((one for one in get_args(annotation) if one is not NoneType), annotation)


ROWS_IN_GROUP = 10_000
WRITERS: dict[str, Callable[[Path], AbstractContextManager[Write]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _cell(value: object) -> object:
    is_formula = isinstance(value, str) and value.startswith(FORMULA) and not NUMBER.fullmatch(value)
    return f"'{value}" if is_formula else value


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
    err.say(f"{counted(len(rows), 'row')} written to {to}")


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
