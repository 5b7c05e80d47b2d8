"""Read the files of a caller, and refuse invalid ones by file and field before anything is stored or paid."""

import json
import reprlib
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from tinytag import TinyTag, TinyTagException

from parley.domain.coaching.rubric import Rubric, parse_rubric
from parley.domain.conversation.contract import ConversationId
from parley.domain.errors import InvalidInput
from parley.domain.hearing import Transcript
from parley.domain.model import WorkspaceId
from parley.domain.recording import container, seconds_by_size, true_seconds
from parley.domain.requests import CONTENT_TAGS
from parley.domain.session import MAX_SESSION_SECONDS, MISPLACED, Session
from parley.domain.transcripts import read_json_transcript, read_text_transcript

MAX_SESSION_BYTES = 5_000_000
MAX_RECORDING_BYTES = 100_000_000
MAX_RUBRIC_BYTES = 100_000
# Services write much about each word.
MAX_TRANSCRIPT_BYTES = 50_000_000
SHOWN_CHARACTERS = 60
AUDIO_FILES = "use a WAV, MP3, OGG, FLAC, M4A or WebM file"
WORKSPACE_ID: TypeAdapter[str] = TypeAdapter(WorkspaceId)
CONVERSATION_ID: TypeAdapter[str] = TypeAdapter(ConversationId)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python's JSON parser accepts a duplicate name and drops one of its values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{shown(twice)} is twice in one object: remove one")
    return found


# No NaN, no duplicate names.
STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated)


def read_session(path: Path) -> Session:
    """A session file.

    Raises:
        InvalidInput: the file is not valid; the error names the file, the field and the problem.
    """
    text = _text(_read(path, MAX_SESSION_BYTES), path.name)
    return parse_session(read_json(text, where=path.name), where=path.name)


def read_conversation(path: Path) -> Session | Transcript | bytes:
    """A file to analyse, known by its content: a session, a transcript of another service, or a recording.

    Raises:
        InvalidInput: the file is none of them, or not valid; the error names the file, the place and the problem.
    """
    raw = _read(path, MAX_RECORDING_BYTES)
    if is_recording(raw):
        recording_seconds(raw, where=path.name)
        return raw
    if len(raw) > MAX_TRANSCRIPT_BYTES:
        raise InvalidInput(f"has more than the {MAX_TRANSCRIPT_BYTES:,} bytes allowed for text", where=path.name)
    return parse_conversation(_text(raw, path.name), where=path.name)


def is_recording(content: bytes) -> bool:
    """Whether a file begins as a recording does. A mark of UTF-16 begins as MP3 does."""
    return bool(container(content)) and not content.startswith(b"\xff\xfe")


def parse_conversation(text: str, *, where: str) -> Session | Transcript:
    """A session or a transcript from its text.

    Raises:
        InvalidInput: it is neither, or not valid; the error names the place and the problem.
    """
    if not text.lstrip().startswith(("{", "[")):
        return read_text_transcript(text, where=where)
    data = read_json(text, where=where)
    if _is_session(data) and len(text.encode()) > MAX_SESSION_BYTES:
        raise InvalidInput(f"has more than the {MAX_SESSION_BYTES:,} bytes allowed for a session", where=where)
    return session_or_transcript(data, where=where)


def session_or_transcript(data: Any, *, where: str) -> Session | Transcript:
    """A session or a transcript from parsed JSON.

    Raises:
        InvalidInput: it is neither, or not valid; the error names the place and the problem.
    """
    return parse_session(data, where=where) if _is_session(data) else read_json_transcript(data, where=where)


def _is_session(data: Any) -> bool:
    return isinstance(data, dict) and ("turns" in data or "session_id" in data)


def _text(raw: bytes, where: str) -> str:
    if not raw.strip():
        raise InvalidInput("is empty: it must contain a session as a JSON object", where=where)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"is not UTF-8: byte {error.start}; save the file as UTF-8", where=where) from None


def read_rubric(path: Path) -> Rubric:
    """A rubric file: TOML, or JSON if its name ends in `.json`.

    Raises:
        InvalidInput: the file is not valid; the error names the file, the field and the problem.
    """
    return parse_rubric(read_text(path, MAX_RUBRIC_BYTES), where=path.name)


def read_text(path: Path, limit: int | None = None) -> str:
    """A text file. `limit`: the most bytes that it may have; default: any number.

    Raises:
        InvalidInput: it cannot be read, is too long, or is not UTF-8.
    """
    raw = _read(path, limit)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"is not UTF-8: byte {error.start}; save the file as UTF-8", where=path.name) from None


def read_json(text: str, *, where: str = "", field: str = "") -> Any:
    """Parse strict JSON: no NaN, no duplicate names. With `field` the text is one cell, without line numbers.

    Raises:
        InvalidInput: the text is not valid JSON.
    """
    try:
        # Without the line end, so that an error at the end of a line has that line's number.
        return STRICT.decode(text.rstrip(" \t\r\n"))
    except RecursionError:
        raise InvalidInput("is not JSON: nested too deeply", where=where, field=field) from None
    except json.JSONDecodeError as error:
        place = f"character {error.pos + 1}" if field else _place(error)
        raise InvalidInput(f"is not JSON: {error.msg} at {place}", where=where, field=field) from None
    except ValueError as error:
        raise InvalidInput(f"is not JSON: {error}", where=where, field=field) from None


def first_problem(error: ValidationError, *, where: str = "") -> InvalidInput:
    """A validation error as one line that names the field."""
    first = error.errors(include_url=False)[0]
    field = first.get("ctx", {}).get("field") if first["type"] == MISPLACED else None
    return InvalidInput(_problem(first), where=where, field=field or _field(first["loc"]))


def check_workspace_id(workspace_id: str) -> None:
    """Refuse a name that cannot be a workspace's.

    Raises:
        InvalidInput: it is empty, too long, or has a slash.
    """
    _check(WORKSPACE_ID, workspace_id, where="workspace_id")


def check_conversation_id(conversation_id: str) -> None:
    """Refuse a name that cannot be a conversation's.

    Raises:
        InvalidInput: it is empty, too long, or has a slash.
    """
    _check(CONVERSATION_ID, conversation_id, where="conversation_id")


def _check(kind: TypeAdapter[str], name: str, *, where: str) -> None:
    try:
        kind.validate_python(name)
    except ValidationError as error:
        raise first_problem(error, where=where) from None


def parse_session(data: Any, *, where: str = "session") -> Session:
    """A session from parsed JSON.

    Raises:
        InvalidInput: the data is not valid; the error names the field and the problem.
    """
    try:
        return Session.model_validate(data)
    except ValidationError as error:
        raise first_problem(error, where=where) from None


def read_recording(path: Path) -> tuple[bytes, float]:
    """A recording and its length in seconds.

    Raises:
        InvalidInput: the file is not audio that can be read.
    """
    audio = _read(path, MAX_RECORDING_BYTES)
    return audio, recording_seconds(audio, where=path.name)


def recording_seconds(audio: bytes, *, where: str = "recording") -> float:
    """The length of a recording in seconds: as its headers say, but no longer than its bytes.

    Raises:
        InvalidInput: it is not audio with a length.
    """
    seconds = true_seconds(audio)
    if seconds is None:
        seconds = min(_claimed_seconds(audio, where), seconds_by_size(audio))
    if not 0 < seconds <= MAX_SESSION_SECONDS:
        raise InvalidInput(f"is not audio with a length: {AUDIO_FILES}", where=where)
    return seconds


def _claimed_seconds(audio: bytes, where: str) -> float:
    try:
        return TinyTag.get(file_obj=BytesIO(audio), tags=False).duration or 0.0
    except (TinyTagException, ValueError, OverflowError, IndexError, KeyError) as error:
        raise InvalidInput(
            f"is not audio: {error}; {AUDIO_FILES}" if str(error) else f"is not audio: {AUDIO_FILES}", where=where
        ) from None


def _read(path: Path, limit: int | None) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(-1 if limit is None else limit + 1)
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None
    if limit is not None and len(content) > limit:
        raise InvalidInput(f"has more than the {limit:,} bytes allowed", where=path.name)
    return content


def _place(error: json.JSONDecodeError) -> str:
    """The place of the error; text of a single line has no line number."""
    line = f"line {error.lineno}, " if "\n" in error.doc else ""
    return f"{line}column {error.colno}"


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(shown(part) for part in location if part not in CONTENT_TAGS)


def shown(name: int | str) -> str:
    """A name that a caller gave, always printable, short and on one line."""
    text = str(name)
    text = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    return text if text.isprintable() else ascii(text)


def _problem(error: Any) -> str:
    if error["type"] == "model_type":
        return "is not a JSON object"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    is_scalar = isinstance(given, int | float | bool) or given is None
    return f"{message} (got {reprlib.repr(given)})" if is_scalar else message
