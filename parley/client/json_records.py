"""Reads the objects of a JSON document one by one: of a list, of a list within an object, or one after another.

So a file of any size needs the memory of its largest object. Lists and objects are read strictly, as `read_json` does.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

from parley.client.reading import STRICT
from parley.domain.errors import InvalidInput

READ_CHARACTERS = 65_536
BLANKS = " \t\r\n"
# An error so near to the end of what is read may be due to what is not read yet: an escape, a number, a name.
NEAR = 16


class JsonRecord(NamedTuple):
    """An object with its place: the line on which it begins, and its list with its number, from 0."""

    line: int
    place: str
    data: Any


class JsonReader:
    """A JSON text that is read value by value. `limit`: the most characters of a value."""

    def __init__(self, file: TextIO, *, limit: int) -> None:
        self._file, self._limit = file, limit
        self._text, self._at, self._ended = "", 0, False
        # The line of the place up to which lines are counted.
        self._line, self._counted = 1, 0

    @property
    def line(self) -> int:
        """The line of the next character, from 1."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in BLANKS:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def take(self, expected: str) -> str:
        """Take the next character.

        Raises:
            InvalidInput: it is not one of the expected ones.
        """
        found = self.peek()
        if not found or found not in expected:
            raise self.problem(f"expecting {' or '.join(map(repr, expected))}")
        self._at += 1
        return found

    def value(self) -> Any:
        """Take the next value.

        Raises:
            InvalidInput: it is not JSON, or too long.
        """
        self.peek()
        while True:
            decoded = self._decoded()
            if decoded is not None:
                value, self._at = decoded
                return value
            if len(self._text) - self._at > self._limit:
                problem = f"is longer than {self._limit:,} characters: leave out or split the session"
                raise InvalidInput(problem, where=f"line {self.line}")
            self._more()

    def _decoded(self) -> tuple[Any, int] | None:
        """The next value and its end; None if it may go on in what is not read yet."""
        try:
            value, end = STRICT.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            if self._ended or not self._may_go_on(error):
                raise self._syntax(error) from None
            return None
        except RecursionError:
            raise self.problem("nested too deeply") from None
        except ValueError as error:
            raise self.problem(str(error)) from None
        # A number at the end may have more digits.
        is_whole = end < len(self._text) or self._ended or isinstance(value, dict | list | str)
        return (value, end) if is_whole else None

    def problem(self, problem: str) -> InvalidInput:
        """The error at this place."""
        return InvalidInput(f"is not JSON: {problem}", where=f"line {self.line}")

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - NEAR

    def _syntax(self, error: json.JSONDecodeError) -> InvalidInput:
        line = self.line + self._text.count("\n", self._at, error.pos)
        column = error.pos - self._text.rfind("\n", 0, error.pos)
        return InvalidInput(f"is not JSON: {error.msg} at column {column}", where=f"line {line}")

    def _more(self) -> None:
        """Read as much again as there is, so that a long value is decoded a few times only."""
        rest = self._text[self._at :]
        read = self._file.read(max(READ_CHARACTERS, len(rest)))
        self._line = self.line
        self._text, self._at, self._counted, self._ended = rest + read, 0, 0, not read


def records(file: TextIO, lists: frozenset[str], *, limit: int) -> Iterator[JsonRecord]:
    """The objects of a document. `lists`: the names under which an object has a list of them.

    Raises:
        InvalidInput: the document is not JSON; `where` is the line.
    """
    reader = JsonReader(file, limit=limit)
    first = reader.peek()
    if first == "[":
        yield from _elements(reader, "")
        if reader.peek():
            raise reader.problem("there is more after the end of the list")
    elif first == "{":
        yield from _first_object(reader, lists)
        while reader.peek():
            yield JsonRecord(reader.line, "", reader.value())
    elif first:
        raise reader.problem("expecting '{' or '['")


def _first_object(reader: JsonReader, lists: frozenset[str]) -> Iterator[JsonRecord]:
    """The objects of the lists of an object; the object itself if it has none of them."""
    line, fields, has_list = reader.line, dict[str, Any](), False
    for name in _entries(reader):
        if name in lists and reader.peek() == "[":
            has_list = True
            yield from _elements(reader, name)
        else:
            fields[name] = reader.value()
    if not has_list:
        yield JsonRecord(line, "", fields)


def _entries(reader: JsonReader) -> Iterator[str]:
    """The names of an object; the caller takes the value of each."""

    def name() -> str:
        if reader.peek() != '"':
            raise reader.problem("expecting a name in double quotes")
        found = reader.value()
        reader.take(":")
        return found

    yield from _separated(reader, "{", "}", name)


def _elements(reader: JsonReader, name: str) -> Iterator[JsonRecord]:
    place = f"{name}." if name else ""
    number = 0

    def element() -> JsonRecord:
        reader.peek()
        return JsonRecord(reader.line, f"{place}{number}", reader.value())

    for one in _separated(reader, "[", "]", element):
        yield one
        number += 1


def _separated(reader: JsonReader, opening: str, closing: str, take: Callable[[], Any]) -> Iterator[Any]:
    reader.take(opening)
    if reader.peek() == closing:
        reader.take(closing)
        return
    while True:
        yield take()
        if reader.take(f",{closing}") == closing:
            return
