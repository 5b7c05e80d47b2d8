"""The files of an import: one file, those of a zip archive, or those of a folder; in UTF-8, UTF-16 or UTF-32.

Nothing of an archive is written anywhere: its files are read as streams, and their names are names only.
"""

import codecs
import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path, PurePosixPath
from typing import IO, TextIO

from parley.client.json_records import JsonRecord, records
from parley.client.reading import read_json, shown
from parley.domain.chat_formats import JSON_LISTS, ChatFormat, recognised, slack, transcript, whatsapp
from parley.domain.chat_formats.drafts import People
from parley.domain.errors import InvalidInput

MAX_LINE_CHARACTERS = 5_000_000
MAX_FILES = 100_000
MAX_ARCHIVED_BYTES = 10_000_000_000
# A file of an archive that is larger than this may not be so many times larger than what is stored of it.
SUSPECT_BYTES, MAX_RATIO = 50_000_000, 300
MAX_LISTED_PEOPLE_BYTES = 100_000_000
CHAT_SUFFIXES = frozenset((".json", ".jsonl", ".ndjson", ".txt", ".csv", ".tsv", ".log"))
CSV_SUFFIXES = frozenset((".csv", ".tsv"))
# Files of a Slack export that list people and channels, and have no messages.
PEOPLE = frozenset(("users.json", "org_users.json"))
DAY = re.compile(r"(?:^|/)[^/]+/\d{4}-\d{2}-\d{2}\.json$")
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What other kinds of files begin with.
OTHER_KINDS = (
    (b"%PDF", "a PDF: export the chats as text"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"\xd0\xcf\x11\xe0", "a document of Microsoft Office: save it as CSV"),
    (b"SQLite format 3", "a database: export its rows as JSON"),
    (b"PAR1", "a Parquet file: convert it to JSONL"),
)
SAMPLE_BYTES, SAMPLE_LINES = 4096, 20


@dataclass(frozen=True)
class ChatFile:
    """One file of an import.

    Attributes:
        name: where it is, for errors: its own name, or also that of the archive.
        title: its name, or that of the archive if its own says nothing.
        open_bytes: opens it; the same content each time.
        is_slack_day: whether it is a day of a Slack export.
    """

    name: str
    title: str
    open_bytes: Callable[[], IO[bytes]]
    is_slack_day: bool = False

    def open(self, newline: str | None = None) -> TextIO:
        """Open it as text. `newline`: as `open` has it.

        A byte that is not UTF-8 becomes a lone surrogate, so that only its own line is invalid.
        """
        binary = self.open_bytes()
        encoding = self.encoding()
        errors = "surrogateescape" if encoding == "utf-8-sig" else "surrogatepass"
        return TextIOWrapper(binary, encoding=encoding, errors=errors, newline=newline)

    def encoding(self) -> str:
        """The encoding, by its mark at the beginning; UTF-8 without one."""
        with self.open_bytes() as file:
            start = file.read(4)
        return next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8-sig")

    def lines(self) -> Iterator[tuple[int, str]]:
        """The lines with their numbers from 1, without their ends.

        Raises:
            InvalidInput: a line is too long, or has a character that cannot be stored.
        """
        with self.open() as file:
            number = 0
            while line := file.readline(MAX_LINE_CHARACTERS + 1):
                number += 1
                if len(line) > MAX_LINE_CHARACTERS:
                    problem = f"is longer than {MAX_LINE_CHARACTERS:,} characters: leave out or split the session"
                    raise InvalidInput(problem, where=f"line {number}")
                yield number, _text(line.rstrip("\n"), number)

    @contextmanager
    def errors_named(self) -> Iterator[None]:
        """Name this file in the errors of reading it."""
        try:
            yield
        except InvalidInput as error:
            where = ": ".join(filter(None, (self.name, error.where)))
            raise InvalidInput(error.problem, where=where, field=error.field) from None
        except UnicodeDecodeError:
            raise InvalidInput(
                "is not text in the encoding of its first bytes: save it as UTF-8", where=self.name
            ) from None
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or shown(str(error))
            raise InvalidInput(f"cannot be read: {reason}", where=self.name) from None


@dataclass(frozen=True)
class ChatFiles:
    """The files of an import, who is in them where a file lists that, and a hash of the content."""

    files: tuple[ChatFile, ...]
    people: People
    digest: str
    is_single: bool


@contextmanager
def opened_files(path: Path, *, format: ChatFormat | None = None) -> Iterator[ChatFiles]:
    """The files of a path: the file itself, those of a zip archive, or those of a folder.

    Raises:
        InvalidInput: it cannot be read, or has no files of chat sessions; or an archive is not safe to read.
    """
    with ExitStack() as stack:
        try:
            found = _found(path, stack, format)
        except OSError as error:
            raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise InvalidInput(f"cannot be read: {shown(str(error))}", where=path.name) from None
        yield found


def _found(path: Path, stack: ExitStack, format: ChatFormat | None) -> ChatFiles:
    if path.is_dir():
        files, digest = _in_folder(path)
    elif _is_archive(path):
        files, digest = _in_archive(path, stack.enter_context(zipfile.ZipFile(path))), _digest(path)
    else:
        file = ChatFile(_printable(path.name), _storable(path.name), lambda: path.open("rb"))
        return ChatFiles((file,), People(), _digest(path), is_single=True)
    listed = next((file for file in files if PurePosixPath(file.name).name in PEOPLE), None)
    days = {file.name for file in files if DAY.search(file.name)}
    if format == "slack":
        read = [file for file in files if file.name in days]
    elif format is None and listed and days:
        read = [file for file in files if file.name in days or not _is_slacks(file, listed, days)]
    else:
        return ChatFiles(_some(files, path), People(), digest, is_single=False)
    read = [replace(file, is_slack_day=file.name in days) for file in read]
    return ChatFiles(_some(read, path), _people(listed) if listed else People(), digest, is_single=False)


def _is_slacks(file: ChatFile, listed: ChatFile, days: Collection[str]) -> bool:
    """Whether a file without messages is of an export of Slack: it is beside the list of people, or beside a day."""
    place = PurePosixPath(file.name)
    return place.suffix == ".json" and place.parent in {PurePosixPath(name).parent for name in (listed.name, *days)}


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK" and zipfile.is_zipfile(file)


def _some(files: list[ChatFile], path: Path) -> tuple[ChatFile, ...]:
    if not files:
        endings = ", ".join(sorted(CHAT_SUFFIXES))
        raise InvalidInput(f"cannot be read: it has no file of chat sessions ({endings})", where=str(path))
    return tuple(files)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_folder(path: Path) -> tuple[list[ChatFile], str]:
    """The files of a folder and of its folders, in the order of their names. Links and hidden files are left out."""
    inside = sorted(one for one in path.rglob("*") if _is_chat_file(one.relative_to(path).as_posix()))
    files = [one for one in inside if one.is_file() and not one.is_symlink()]
    if len(files) > MAX_FILES:
        raise InvalidInput(f"has more than the {MAX_FILES:,} files allowed", where=str(path))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()} {_digest(file)}\n".encode(errors="surrogateescape"))
    return [_of_folder(path, file) for file in files], digest.hexdigest()


def _of_folder(folder: Path, file: Path) -> ChatFile:
    name = file.relative_to(folder).as_posix()
    title = _title(_storable(name), _storable(folder.name))
    return ChatFile(_printable(f"{folder.name}/{name}"), title, lambda: file.open("rb"))


def _storable(name: str) -> str:
    """The name of a file, which may be bytes that are not UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def _printable(name: str) -> str:
    """The whole name of a file, for errors."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in name)


def _in_archive(path: Path, archive: zipfile.ZipFile) -> list[ChatFile]:
    """The files of an archive, in the order of their names.

    Raises:
        InvalidInput: a name leads out of the archive, a file is encrypted, or the files are too many or too large.
    """
    entries = sorted((one for one in archive.infolist() if not one.is_dir()), key=lambda one: one.filename)
    if any(one.filename == "xl/workbook.xml" for one in entries):
        raise InvalidInput("is a workbook of Excel: save it as CSV", where=path.name)
    if len(entries) > MAX_FILES or sum(one.file_size for one in entries) > MAX_ARCHIVED_BYTES:
        limits = f"{MAX_FILES:,} files or {MAX_ARCHIVED_BYTES:,} bytes"
        raise InvalidInput(f"has more than the {limits} allowed: import its files in parts", where=path.name)
    for entry in entries:
        _check(entry, path)
    return [_of_archive(path, archive, entry) for entry in entries if _is_chat_file(entry.filename)]


def _of_archive(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> ChatFile:
    title = _title(_storable(entry.filename), _storable(path.name))
    return ChatFile(_printable(f"{path.name}/{entry.filename}"), title, lambda: archive.open(entry))


def _check(entry: zipfile.ZipInfo, path: Path) -> None:
    where = f"{path.name}: {shown(entry.filename)}"
    parts = PurePosixPath(entry.filename.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match(r"^[A-Za-z]:", entry.filename):
        raise InvalidInput("leads out of the archive: make the archive again from its files", where=where)
    if entry.flag_bits & 1:
        raise InvalidInput("is encrypted: unpack the archive first", where=where)
    if entry.file_size > max(SUSPECT_BYTES, MAX_RATIO * entry.compress_size):
        raise InvalidInput(f"unpacks to more than {MAX_RATIO} times its size: unpack the archive first", where=where)


def _is_chat_file(name: str) -> bool:
    path = PurePosixPath(name)
    is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in CHAT_SUFFIXES and not is_hidden


def _title(name: str, container: str) -> str:
    """A name that says whose chat it is: WhatsApp names the archive, or the folder it is unpacked to, not the file."""
    place = PurePosixPath(name)
    if place.name != "_chat.txt":
        return name
    return f"{place.parent.name}.txt" if place.parent.name else container


def _people(file: ChatFile) -> People:
    with file.errors_named(), file.open() as text:
        content = text.read(MAX_LISTED_PEOPLE_BYTES)
        return slack.people(read_json(content), where="")


def detected(file: ChatFile) -> tuple[ChatFormat, bool]:
    """The format of a file by its content, and whether it is one JSON document rather than a record on each line.

    Raises:
        InvalidInput: it has none of the known formats.
    """
    suffix = PurePosixPath(file.name).suffix.lower()
    if suffix in CSV_SUFFIXES:
        return "csv", False
    _check_text(file)
    start = _first_lines(file)
    if dated := [line for line in start if whatsapp.begins(line)]:
        # Chats of WhatsApp begin with a notice, and have names; a transcript with dates has labels only.
        return ("transcript" if all(map(transcript.is_known, dated)) else "whatsapp"), False
    if not start or _is_json(start[0]):
        return _json_format(file)
    if any("session_id" in line and any(mark in line for mark in ",;\t") for line in start[:2]):
        return "csv", False
    if transcript.is_separator(start[0]) or transcript.begins(start[0]):
        return "transcript", False
    if suffix in (".txt", ".log"):
        raise InvalidInput("has none of the formats that are known: name one with `--format`")
    return "jsonl", False


def is_document(file: ChatFile) -> bool:
    """Whether a file of JSON is one document, rather than an object on each line."""
    start = _first_lines(file, 1)
    if not start or start[0].lstrip().startswith("["):
        return bool(start)
    try:
        first = json.loads(start[0])
    except (ValueError, RecursionError):
        return True
    is_one = not isinstance(first, dict) or recognised(first) or "session_id" in first
    return not is_one and any(isinstance(first.get(name), list) for name in JSON_LISTS)


def _is_json(line: str) -> bool:
    """Whether a text begins as JSON does, and not as a transcript whose lines begin with a time in brackets."""
    return line.lstrip().startswith(("{", "[")) and not transcript.begins(line)


def _json_format(file: ChatFile) -> tuple[ChatFormat, bool]:
    try:
        first = _first_record(file, JSON_LISTS)
    except InvalidInput:
        if _has_whole_lines(file):
            return "jsonl", False  # the reader of lines names the one that is wrong
        raise
    if first and (found := recognised(first.data)):
        return found, bool(first.place) or is_document(file)
    own = _first_record(file, frozenset())
    is_own = own is not None and isinstance(own.data, dict) and "session_id" in own.data
    return "jsonl", is_own and is_document(file)


def _first_record(file: ChatFile, lists: frozenset[str]) -> JsonRecord | None:
    """The first object of a file of JSON; None where there is none.

    Raises:
        InvalidInput: it is not JSON.
    """
    with file.open() as text:
        return next(records(text, lists, limit=MAX_LINE_CHARACTERS), None)


def _has_whole_lines(file: ChatFile) -> bool:
    """Whether a file has JSON in lines: one of its first lines is an object, or there is one line only."""
    start = _first_lines(file)
    return len(start) <= 1 or any(_is_object(line) for line in start)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _check_text(file: ChatFile) -> None:
    """Refuse a file that is not text, with what to do."""
    with file.open_bytes() as binary:
        sample = binary.read(SAMPLE_BYTES)
    for start, kind in OTHER_KINDS:
        if sample.startswith(start):
            raise InvalidInput(f"is {kind}")
    is_marked = any(sample.startswith(mark) for mark, _ in BYTE_ORDER_MARKS)
    if not is_marked and sample.count(b"\0") * 4 > len(sample) > 0:
        raise InvalidInput("seems to be UTF-16 without a byte order mark: save it as UTF-8")


def _first_lines(file: ChatFile, most: int = SAMPLE_LINES) -> list[str]:
    """The first lines that are not blank."""
    found: list[str] = []
    with file.open() as text:
        while len(found) < most and (line := text.readline(MAX_LINE_CHARACTERS)):
            if line.strip():
                found.append(line)
    return found


def _text(line: str, number: int) -> str:
    if "\0" in line:
        raise InvalidInput("has a NUL character: remove it", where=f"line {number}")
    try:
        line.encode()
    except UnicodeEncodeError:
        raise InvalidInput("is not UTF-8: save the file as UTF-8", where=f"line {number}") from None
    return line
