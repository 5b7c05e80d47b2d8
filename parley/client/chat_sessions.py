"""The sessions of the files of an import, one by one, in whatever format each file has."""

import csv
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TextIO, cast

from parley.client.chat_files import MAX_LINE_CHARACTERS, ChatFile, ChatFiles, detected, is_document
from parley.client.grouping import Groups, Piece
from parley.client.json_records import JsonRecord, records
from parley.client.reading import read_json
from parley.domain.chat_formats import (
    CHAT_FORMATS,
    JSON_FORMATS,
    ChatFormat,
    ChatRole,
    Draft,
    JsonFormat,
    Part,
    Roles,
    Terms,
    transcript,
    whatsapp,
)
from parley.domain.chat_formats.drafts import People
from parley.domain.errors import InvalidInput

# A CSV row is one session; its messages are a JSON list, as in JSONL.
CSV_COLUMNS = ("session_id", "user_id", "containment", "messages")
CSV_OPTIONAL = "bot_id"
CSV_DELIMITERS = (",", ";", "\t")
# Formats whose sessions are named after their file.
OF_TEXT = frozenset(("whatsapp", "transcript"))
OWN = frozenset(("jsonl", "csv"))
MAX_GAP_HOURS = 24 * 365.0


class Found(NamedTuple):
    """A session with its file and line. `read` gives a `Draft`, or the fields of Parley's own formats."""

    file: str
    line: int
    read: Callable[[], Any]


@dataclass(frozen=True)
class Reading:
    """How an import is read.

    Attributes:
        format: of all files; None finds out that of each.
        given_roles: of names, where a format has names only.
        gap_hours: the silence that ends a session, where a format has no sessions.

    Raises:
        InvalidInput: an option is not one of those that there are.
    """

    format: ChatFormat | None
    given_roles: Mapping[str, ChatRole]
    gap_hours: float

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in CHAT_FORMATS:
            raise InvalidInput(f"must be one of {', '.join(CHAT_FORMATS)}", where="format")
        for name, role in self.given_roles.items():
            if role not in ("user", "agent", "bot"):
                raise InvalidInput(f"the role of {name!a} must be user, agent or bot", where="roles")
        if not 0 < self.gap_hours <= MAX_GAP_HOURS:
            raise InvalidInput(f"must be above 0 and at most {MAX_GAP_HOURS:g}", where="session_gap_hours")

    def terms(self, people: People) -> Terms:
        """What the formats need to know. `people`: who is in the export."""
        return Terms(Roles(self.given_roles), timedelta(hours=self.gap_hours), people)

    def format_of(self, file: ChatFile) -> tuple[ChatFormat, bool]:
        """The format of a file, and whether it is one JSON document."""
        if self.format is None:
            return detected(file)
        is_json = self.format not in (*OF_TEXT, "csv")
        return self.format, is_json and is_document(file) and (self.format != "jsonl" or detected(file)[1])

    def is_own(self, files: ChatFiles) -> bool:
        """Whether it is one file in one of Parley's own formats."""
        return files.is_single and self._first(files) in OWN

    def terms_of(self, files: ChatFiles) -> dict[str, Any]:
        """What makes a dataset of the same content another one; empty for Parley's own formats."""
        if self.is_own(files):
            return {}
        name = files.files[0].title if self._first(files) in OF_TEXT else ""
        return {"format": self.format, "roles": dict(self.given_roles), "gap": self.gap_hours, "name": name}

    def _first(self, files: ChatFiles) -> ChatFormat:
        file = files.files[0]
        with file.errors_named():
            return self.format_of(file)[0]


def found_sessions(files: ChatFiles, reading: Reading) -> Iterator[Found]:
    """The sessions of all files. What is a part of a session follows when all files are read.

    Raises:
        InvalidInput: a file cannot be read; the error names file and line.
    """
    with Groups() as groups:
        walk = _Walk(files, reading, groups)
        for number, file in enumerate(files.files):
            with file.errors_named():
                yield from walk.sessions(number, file)
        yield from walk.assembled()


class _Walk:
    """Reads files one after another, and collects the parts of sessions that they mix."""

    def __init__(self, files: ChatFiles, reading: Reading, groups: Groups) -> None:
        self._files, self._reading, self._groups = files.files, reading, groups
        self._terms = reading.terms(files.people)

    def sessions(self, number: int, file: ChatFile) -> Iterator[Found]:
        """The sessions of a file that are in one piece."""
        name, is_document_ = ("slack", True) if file.is_slack_day else self._reading.format_of(file)
        if name == "csv":
            yield from _own(file, _csv_lines(file))
        elif name == "jsonl":
            yield from _own(file, _documents(file) if is_document_ else _json_lines(file))
        elif name == "whatsapp":
            survey = whatsapp.Survey(file.lines())
            written = whatsapp.read(file.lines(), survey, self._terms, name=file.title)
            yield from (Found(file.name, line, read) for line, read in written)
        elif name == "transcript":
            found = transcript.read(file.lines(), transcript.Survey(file.lines()), self._terms, name=file.title)
            yield from (Found(file.name, line, read) for line, read in found)
        else:
            yield from self._of_json(name, number, file, is_document=is_document_)

    def assembled(self) -> Iterator[Found]:
        """The sessions of which files had parts."""
        for key, pieces in self._groups:
            name, _, own = key.partition(" ")
            parts = [Part(piece.data, str(number), piece.place) for number, piece in enumerate(pieces)]
            try:
                drafts = list(JSON_FORMATS[cast("ChatFormat", name)].assemble(own, parts, self._terms))
            except InvalidInput as error:
                problem = InvalidInput(error.problem, field=error.field)
                yield self._found(pieces[int(error.where)], partial(_raise, problem))
            else:
                yield from (self._found(pieces[0], partial(_same, draft)) for draft in drafts)

    def _found(self, piece: Piece, read: Callable[[], Any]) -> Found:
        return Found(self._files[piece.file].name, piece.line, read)

    def _of_json(self, name: ChatFormat, number: int, file: ChatFile, *, is_document: bool) -> Iterator[Found]:
        form = JSON_FORMATS[name]
        found = _document_records(file, form.lists) if is_document else _line_records(file)
        for line, read in found:
            yield from _drafts(file.name, line, partial(self._record, name, form, number, file, read))

    def _record(
        self, name: ChatFormat, form: JsonFormat, number: int, file: ChatFile, read: Callable[[], JsonRecord]
    ) -> Iterator[Draft]:
        """The sessions of an object; none if it is a part of one, which is collected."""
        record = read()
        if not isinstance(record.data, dict):
            raise InvalidInput("must be an object", field=record.place)
        part = Part(record.data, "", record.place)
        key = form.key(part, file.title)
        if key:
            self._groups.add(f"{name} {key}", Piece(number, record.line, record.place, record.data))
        elif key is not None:
            yield from form.read(part, self._terms)


def _drafts(file: str, line: int, read: Callable[[], Iterator[Draft]]) -> Iterator[Found]:
    """The sessions that a record has; its error instead, for the caller to raise or to list."""
    try:
        yield from (Found(file, line, partial(_same, draft)) for draft in list(read()))
    except InvalidInput as error:
        yield Found(file, line, partial(_raise, error))


def _same(draft: Draft) -> Draft:
    return draft


def _raise(error: InvalidInput) -> Any:
    raise error


def _own(file: ChatFile, lines: Iterator[tuple[int, Callable[[], Any]]]) -> Iterator[Found]:
    return (Found(file.name, line, read) for line, read in lines)


def _documents(file: ChatFile) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Sessions of Parley's own form in one JSON document."""
    with file.open() as text:
        for record in records(text, frozenset(), limit=MAX_LINE_CHARACTERS):
            yield record.line, partial(lambda data: data, record.data)


def _document_records(file: ChatFile, lists: frozenset[str]) -> Iterator[tuple[int, Callable[[], JsonRecord]]]:
    with file.open() as text:
        for record in records(text, lists, limit=MAX_LINE_CHARACTERS):
            yield record.line, partial(lambda one: one, record)


def _line_records(file: ChatFile) -> Iterator[tuple[int, Callable[[], JsonRecord]]]:
    def record(number: int, read: Callable[[], Any]) -> JsonRecord:
        return JsonRecord(number, "", read())

    return ((number, partial(record, number, read)) for number, read in _json_lines(file))


def _json_lines(file: ChatFile) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Line numbers, each with a function that reads the line's data, so that an error belongs to its own line."""
    with file.open(newline="\n") as text:
        number = 0
        while line := text.readline(MAX_LINE_CHARACTERS + 1):
            number += 1
            if len(line) > MAX_LINE_CHARACTERS:
                while line and not line.endswith("\n"):
                    line = text.readline(MAX_LINE_CHARACTERS)
                yield number, _too_long
            elif line.strip():
                yield number, lambda line=line: read_json(_utf8(line))


def _too_long() -> Any:
    raise InvalidInput(f"is longer than {MAX_LINE_CHARACTERS:,} characters: leave out or split the session")


def _utf8(text: str, field: str = "") -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("is not UTF-8: save the file as UTF-8", field=field) from None
    return text


def _csv_lines(file: ChatFile) -> Iterator[tuple[int, Callable[[], Any]]]:
    with file.open(newline="") as text:
        rows = _csv_rows(text, _delimiter(file))
        _, columns = next(rows, (0, []))
        if sorted(columns) not in (sorted(CSV_COLUMNS), sorted((*CSV_COLUMNS, CSV_OPTIONAL))):
            found = ", ".join(map(reprlib.repr, columns[: len(CSV_COLUMNS) + 2])) or "none"
            needed = f"columns must be {', '.join(CSV_COLUMNS)}, and may be {CSV_OPTIONAL}"
            raise InvalidInput(f"{needed}; found {found}")
        for number, row in rows:
            yield number, partial(_csv_session, columns, row)


def _delimiter(file: ChatFile) -> str:
    """What separates the columns of the first line that is not blank; Excel may name it before: `sep=;`."""
    with file.open() as text:
        first = next((line for line in text if line.strip()), "")[:MAX_LINE_CHARACTERS].strip()
    if _is_separator_line(first):
        return first[4:] or "\t"
    return max(CSV_DELIMITERS, key=lambda mark: len(set(CSV_COLUMNS) & {one.strip('" ') for one in first.split(mark)}))


def _is_separator_line(line: str) -> bool:
    return line.lower().startswith("sep=") and line[4:] in (*CSV_DELIMITERS, "|", "")


def _csv_rows(text: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line that each begins on. A wrong quote also breaks all rows after it."""
    csv.field_size_limit(10 * MAX_LINE_CHARACTERS)  # a quote that is never closed makes a very long cell
    rows, first = csv.reader(text, delimiter=delimiter, strict=True), 1
    try:
        for row in rows:
            if row and not (first == 1 and _is_separator_line(delimiter.join(row))):
                yield first, row
            first = rows.line_num + 1
    except csv.Error as error:
        raise InvalidInput(f"is not CSV: {error}", where=f"line {first}") from None


def _csv_session(columns: list[str], row: list[str]) -> dict[str, Any]:
    if len(row) != len(columns):
        raise InvalidInput(f"has {len(row)} cells for {len(columns)} columns: quote a cell that has a comma")
    if sum(map(len, row)) > MAX_LINE_CHARACTERS:
        _too_long()
    cells = {name: _utf8(cell, name) for name, cell in zip(columns, row, strict=True)}
    return {**cells, "messages": read_json(cells["messages"], field="messages")}
