"""Import a file of chat sessions: streamed, checked line by line, all or nothing unless invalid lines are skipped."""

import asyncio
import csv
import hashlib
import reprlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from parley.client.reading import first_problem, read_json
from parley.domain.auto_analyze.sampling import SessionFacts
from parley.domain.chat import ChatSession
from parley.domain.errors import InvalidInput
from parley.domain.model import Model
from parley.domain.tokens import count_tokens
from parley.storage import datasets
from parley.storage.database import Database
from parley.storage.tables import Dataset

MAX_LINE_CHARACTERS = 5_000_000
BATCH = 500
LOCK_POLL_SECONDS = 0.1
# A CSV row is one session; its messages are a JSON list, as in JSONL.
CSV_COLUMNS = ("session_id", "user_id", "containment", "messages")
CSV_OPTIONAL = "bot_id"


class Skipped(Model):
    """A line that was left out, and why."""

    line: int
    field: str
    problem: str


class Imported(Model):
    """The result of an import. `known`: the same content was imported before."""

    dataset_id: str
    sessions: int
    tokens: int
    skipped: tuple[Skipped, ...] = ()
    known: bool = False


async def import_chats(
    database: Database,
    workspace_id: str,
    path: Path,
    *,
    skip_invalid: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Imported:
    """Store a JSONL or CSV file of chat sessions as a dataset, in one transaction.

    `on_progress` is called with the number of sessions read so far.

    Raises:
        InvalidInput: a line is not valid; the error names file, line and field, and nothing is stored.
    """
    skipped: list[Skipped] = []
    dataset_id = _content_hash(path, skip_invalid=skip_invalid)
    async with database.transaction() as tx:
        while not await datasets.lock(tx, workspace_id, dataset_id):  # noqa: ASYNC110 - another process imports it
            await asyncio.sleep(LOCK_POLL_SECONDS)
        known = await datasets.find_dataset(tx, workspace_id, dataset_id)
        if known:
            await tx.commit()  # PostgreSQL would end a transaction that is idle while a large file is read
            left_out = await _left_out(path) if skip_invalid else ()
            return Imported(
                dataset_id=dataset_id, sessions=known.sessions, tokens=known.tokens, skipped=left_out, known=True
            )
        position = tokens = 0
        with _opened(path) as file:
            lines = _checked(path, file, skipped if skip_invalid else None)
            while batch := list(islice(lines, BATCH)):
                sized = [(position + at, session, _tokens(session)) for at, session in enumerate(batch)]
                await datasets.save_chats(tx, workspace_id, dataset_id, sized)
                position += len(batch)
                tokens += sum(size for _, _, size in sized)
                on_progress(position)
        if not position:
            raise _empty(path, skipped)
        tx.add(
            Dataset(
                workspace_id=workspace_id, dataset_id=dataset_id, name=path.name[:200], sessions=position, tokens=tokens
            )
        )
    return Imported(dataset_id=dataset_id, sessions=position, tokens=tokens, skipped=tuple(skipped))


async def read_facts(
    path: Path, *, skip_invalid: bool = False, on_progress: Callable[[int], None] = lambda _: None
) -> list[SessionFacts]:
    """What a run is planned by, for every session of a file that is not imported. Nothing is stored.

    Raises:
        InvalidInput: the file cannot be read, or a line is not valid; the error names file, line and field.
    """
    skipped: list[Skipped] = []
    facts: list[SessionFacts] = []
    try:
        with _opened(path) as file:
            lines = _checked(path, file, skipped if skip_invalid else None)
            while batch := list(islice(lines, BATCH)):
                facts += [_facts(len(facts) + at, session) for at, session in enumerate(batch)]
                on_progress(len(facts))
                await asyncio.sleep(0)  # let other tasks of this event loop run while a large file is read
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None
    if not facts:
        raise _empty(path, skipped)
    return facts


def _facts(position: int, session: ChatSession) -> SessionFacts:
    return SessionFacts(
        position,
        session.session_id,
        _tokens(session),
        session.containment,
        session.started_at,
        session.transcript_hash,
    )


async def _left_out(path: Path) -> tuple[Skipped, ...]:
    """The lines that an earlier import of this content left out: the same content fails the same checks."""
    skipped: list[Skipped] = []
    with _opened(path) as file:
        lines = _checked(path, file, skipped)
        for _ in iter(lambda: list(islice(lines, BATCH)), []):
            await asyncio.sleep(0)  # let other tasks of this event loop run while a large file is read
    return tuple(skipped)


def _opened(path: Path) -> TextIO:
    # A byte that is not UTF-8 becomes a lone surrogate, so that only its own line is invalid.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=_newline(path))


def _content_hash(path: Path, *, skip_invalid: bool) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None
    # With and without invalid lines left out, the same file makes two different datasets.
    return hashlib.sha256(f"{digest} {skip_invalid}".encode()).hexdigest() if skip_invalid else digest


def _empty(path: Path, skipped: list[Skipped]) -> InvalidInput:
    if not skipped:
        return InvalidInput("has no session", where=path.name)
    first = skipped[0]
    problem = f"{first.problem} (none of {len(skipped)} lines is valid)"
    return InvalidInput(problem, where=f"{path.name}: line {first.line}", field=first.field)


def _checked(path: Path, file: TextIO, skipped: list[Skipped] | None) -> Iterator[ChatSession]:
    """The file's sessions. An invalid line raises an error, or is added to `skipped` if that is given."""
    seen: dict[str, int] = {}
    for number, read in _lines(path, file):
        try:
            session = _session(read())
            if session.session_id in seen:
                raise InvalidInput(f"is on line {seen[session.session_id]} already: make it unique", field="session_id")
        except InvalidInput as error:
            if skipped is None:
                raise InvalidInput(error.problem, where=f"{path.name}: line {number}", field=error.field) from None
            skipped.append(Skipped(line=number, field=error.field, problem=error.problem))
            continue
        seen[session.session_id] = number
        yield session


def _lines(path: Path, file: TextIO) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Line numbers, each with a function that reads the line's data, so that an error belongs to its own line."""
    yield from _csv_lines(path, file) if _is_csv(path) else _json_lines(file)


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _newline(path: Path) -> str:
    """The line end: in CSV as the csv module reads it, in JSONL only a line feed."""
    return "" if _is_csv(path) else "\n"


def _json_lines(file: TextIO) -> Iterator[tuple[int, Callable[[], Any]]]:
    number = 0
    while line := file.readline(MAX_LINE_CHARACTERS + 1):
        number += 1
        if len(line) > MAX_LINE_CHARACTERS:
            while line and not line.endswith("\n"):
                line = file.readline(MAX_LINE_CHARACTERS)
            yield number, _too_long
        elif line.strip():
            yield number, lambda text=line: read_json(_utf8(text))


def _too_long() -> Any:
    raise InvalidInput(f"is longer than {MAX_LINE_CHARACTERS:,} characters: leave out or split the session")


def _utf8(text: str, field: str = "") -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("is not UTF-8: save the file as UTF-8", field=field) from None
    return text


def _csv_lines(path: Path, file: TextIO) -> Iterator[tuple[int, Callable[[], Any]]]:
    rows = _csv_rows(path, file)
    _, columns = next(rows, (0, []))
    if sorted(columns) not in (sorted(CSV_COLUMNS), sorted((*CSV_COLUMNS, CSV_OPTIONAL))):
        found = ", ".join(map(reprlib.repr, columns[: len(CSV_COLUMNS) + 2])) or "none"
        needed = f"columns must be {', '.join(CSV_COLUMNS)}, and may be {CSV_OPTIONAL}"
        raise InvalidInput(f"{needed}; found {found}", where=path.name)
    for number, row in rows:
        yield number, lambda row=row: _csv_session(columns, row)


def _csv_rows(path: Path, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line that each begins on. A wrong quote also breaks all rows after it."""
    csv.field_size_limit(10 * MAX_LINE_CHARACTERS)  # a quote that is never closed makes a very long cell
    rows, first = csv.reader(file, strict=True), 1
    try:
        for row in rows:
            if row:
                yield first, row
            first = rows.line_num + 1
    except csv.Error as error:
        raise InvalidInput(f"is not CSV: {error}", where=f"{path.name}: line {first}") from None


def _csv_session(columns: list[str], row: list[str]) -> dict[str, Any]:
    if len(row) != len(columns):
        raise InvalidInput(f"has {len(row)} cells for {len(columns)} columns: quote a cell that has a comma")
    if sum(map(len, row)) > MAX_LINE_CHARACTERS:
        _too_long()
    cells = {name: _utf8(cell, name) for name, cell in zip(columns, row, strict=True)}
    return {**cells, "messages": read_json(cells["messages"], field="messages")}


def _session(data: Any) -> ChatSession:
    try:
        return ChatSession.model_validate(data)
    except ValidationError as error:
        problem = first_problem(error)
        if isinstance(data, dict) and data.get("messages") == [] and problem.field == "messages":
            problem = InvalidInput("has no message", field=problem.field)
        raise problem from None


def _tokens(session: ChatSession) -> int:
    return sum(count_tokens(message.text) + 4 for message in session.messages)
