"""Import a file of chat sessions: streamed, checked line by line, all or nothing unless invalid lines are skipped."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TypedDict, Unpack

from pydantic import ValidationError

from parley.client.chat_files import ChatFiles, opened_files
from parley.client.chat_sessions import Found, Reading, found_sessions
from parley.client.reading import first_problem, shown
from parley.domain.auto_analyze.sampling import SessionFacts
from parley.domain.chat import ChatSession
from parley.domain.chat_formats import ChatFormat, ChatRole, Draft
from parley.domain.chat_formats.drafts import DEFAULT_SESSION_GAP_HOURS
from parley.domain.errors import InvalidInput
from parley.domain.model import Model
from parley.domain.text import one_line
from parley.domain.tokens import MESSAGE_TOKENS, count_tokens
from parley.storage import datasets
from parley.storage.database import Database
from parley.storage.tables import Dataset

BATCH = 500
LOCK_POLL_SECONDS = 0.1
NAME_CHARACTERS = 200


class ReadingOptions(TypedDict, total=False):
    """How a file of chat sessions is read. `Client.import_chats` documents them."""

    format: ChatFormat | None
    roles: Mapping[str, ChatRole] | None
    session_gap_hours: float
    skip_invalid: bool


class Skipped(Model):
    """A line that was left out, and why. `file`: which one, if there are several."""

    line: int
    field: str
    problem: str
    file: str = ""


class Imported(Model):
    """The result of an import. `known`: the same content was imported before."""

    dataset_id: str
    sessions: int
    tokens: int
    skipped: tuple[Skipped, ...] = ()
    known: bool = False


def no_progress(_: int) -> None:
    """For an import whose progress is not shown."""


async def import_chats(
    database: Database,
    workspace_id: str,
    path: Path,
    *,
    format: ChatFormat | None = None,
    roles: Mapping[str, ChatRole] | None = None,
    session_gap_hours: float = DEFAULT_SESSION_GAP_HOURS,
    skip_invalid: bool = False,
    on_progress: Callable[[int], None] = no_progress,
) -> Imported:
    """Store a file of chat sessions as a dataset, in one transaction. `Client.import_chats` documents the arguments.

    Raises:
        InvalidInput: a line is not valid; the error names file, line and field, and nothing is stored.
    """
    reading = Reading(format, roles or {}, session_gap_hours)
    with opened_files(path, format=format) as files:
        checks = _Checks(files, reading, skip_invalid=skip_invalid)
        dataset_id = _dataset_id(files, reading, skip_invalid=skip_invalid)
        sessions = checks.sessions()
        # Before the transaction, which PostgreSQL ends if it is idle: parts of sessions are grouped before the first
        # one is known, and the tokeniser is loaded.
        batch = _next(sessions, 0)
        async with database.transaction(bulk=True) as tx:
            while not await datasets.lock(tx, workspace_id, dataset_id):  # noqa: ASYNC110 - another process imports it
                await asyncio.sleep(LOCK_POLL_SECONDS)
            known = await datasets.find_dataset(tx, workspace_id, dataset_id)
            if known:
                await tx.commit()  # PostgreSQL would end a transaction that is idle while a large file is read
                left_out = await checks.left_out(sessions) if skip_invalid or not reading.is_own(files) else ()
                return Imported(
                    dataset_id=dataset_id, sessions=known.sessions, tokens=known.tokens, skipped=left_out, known=True
                )
            position = tokens = 0
            while batch:
                await datasets.save_chats(tx, workspace_id, dataset_id, batch)
                position += len(batch)
                tokens += sum(size for _, _, size in batch)
                on_progress(position)
                batch = _next(sessions, position)
            if not position:
                raise checks.empty(path)
            name = one_line(path.name, NAME_CHARACTERS)  # a name may be bytes that are not UTF-8
            tx.add(
                Dataset(workspace_id=workspace_id, dataset_id=dataset_id, name=name, sessions=position, tokens=tokens)
            )
    return Imported(dataset_id=dataset_id, sessions=position, tokens=tokens, skipped=tuple(checks.skipped))


def _next(sessions: Iterator[ChatSession], position: int) -> list[tuple[int, ChatSession, int]]:
    """The next sessions from a position on, each with its position and its tokens."""
    return [(place, session, _tokens(session)) for place, session in enumerate(islice(sessions, BATCH), position)]


async def read_facts(path: Path, **how: Unpack[ReadingOptions]) -> list[SessionFacts]:
    """What a run is planned by, for every session of a file that is not imported. Nothing is stored.

    Raises:
        InvalidInput: the file cannot be read, or a line is not valid; the error names file, line and field.
    """
    form = how.get("format")
    reading = Reading(form, how.get("roles") or {}, how.get("session_gap_hours", DEFAULT_SESSION_GAP_HOURS))
    facts: list[SessionFacts] = []
    with opened_files(path, format=form) as files:
        checks = _Checks(files, reading, skip_invalid=how.get("skip_invalid", False))
        sessions = checks.sessions()
        while batch := list(islice(sessions, BATCH)):
            facts += [_facts(len(facts) + at, session) for at, session in enumerate(batch)]
            await asyncio.sleep(0)  # let other tasks of this event loop run while a large file is read
        if not facts:
            raise checks.empty(path)
    return facts


async def read_chats(path: Path, **how: Unpack[ReadingOptions]) -> tuple[Imported, list[ChatSession]]:
    """The dataset that an import of a file makes, with its sessions. Nothing is stored.

    Raises:
        InvalidInput: the file cannot be read, or a line is not valid; the error names file, line and field.
    """
    form, skip_invalid = how.get("format"), how.get("skip_invalid", False)
    reading = Reading(form, how.get("roles") or {}, how.get("session_gap_hours", DEFAULT_SESSION_GAP_HOURS))
    with opened_files(path, format=form) as files:
        checks = _Checks(files, reading, skip_invalid=skip_invalid)
        dataset_id = _dataset_id(files, reading, skip_invalid=skip_invalid)
        sessions = list(checks.sessions())
        if not sessions:
            raise checks.empty(path)
    tokens, skipped = sum(map(_tokens, sessions)), tuple(checks.skipped)
    return Imported(dataset_id=dataset_id, sessions=len(sessions), tokens=tokens, skipped=skipped), sessions


def _facts(position: int, session: ChatSession) -> SessionFacts:
    return SessionFacts(
        position,
        session.session_id,
        _tokens(session),
        session.containment,
        session.started_at,
        session.transcript_hash,
    )


def _dataset_id(files: ChatFiles, reading: Reading, *, skip_invalid: bool) -> str:
    """The hash of the content, and of how it is read where that makes a difference."""
    digest = files.digest
    if terms := reading.terms_of(files):
        digest = hashlib.sha256(f"{digest} {json.dumps(terms, sort_keys=True)}".encode()).hexdigest()
    # With and without invalid lines left out, the same file makes two different datasets.
    return hashlib.sha256(f"{digest} {skip_invalid}".encode()).hexdigest() if skip_invalid else digest


class _Checks:
    """The sessions of an import, checked one by one. `skipped`: what was left out."""

    def __init__(self, files: ChatFiles, reading: Reading, *, skip_invalid: bool) -> None:
        self._files, self._reading, self._skip_invalid = files, reading, skip_invalid
        self.skipped: list[Skipped] = []

    def sessions(self) -> Iterator[ChatSession]:
        """The sessions. An invalid one raises an error, or is added to `skipped`. One without messages is added always.

        Raises:
            InvalidInput: a session is not valid, or the file cannot be read.
        """
        seen: dict[str, int | str] = {}
        for found in found_sessions(self._files, self._reading):
            try:
                session = self._session(found)
                if session and session.session_id in seen:
                    first = seen[session.session_id]
                    raise InvalidInput(f"is on line {first} already: make it unique", field="session_id")
            except InvalidInput as error:
                if not self._skip_invalid:
                    where = f"{found.file}: {error.where or f'line {found.line}'}"
                    raise InvalidInput(error.problem, where=where, field=error.field) from None
                self._skip(found, error.field, error.problem)
                continue
            if session:
                seen[session.session_id] = self._place(found)
                yield session

    async def left_out(self, sessions: Iterator[ChatSession]) -> tuple[Skipped, ...]:
        """What an earlier import of this content left out: the rest of it is read, and fails the same checks."""
        for _ in iter(lambda: list(islice(sessions, BATCH)), []):
            await asyncio.sleep(0)  # let other tasks of this event loop run while a large file is read
        return tuple(self.skipped)

    def empty(self, path: Path) -> InvalidInput:
        """The error for a file without a session."""
        if not self.skipped:
            return InvalidInput("has no session", where=path.name)
        first = self.skipped[0]
        problem = f"{first.problem} (none of {len(self.skipped)} lines is valid)"
        return InvalidInput(problem, where=f"{first.file or path.name}: line {first.line}", field=first.field)

    def _session(self, found: Found) -> ChatSession | None:
        """The session; None for one in which nothing was said, as exports have them."""
        data = found.read()
        if not isinstance(data, Draft):
            return _session(data)
        if data.messages:
            return _session(data.session())
        self._skip(found, "", f"session {shown(data.session_id)} has no message")
        return None

    def _skip(self, found: Found, field: str, problem: str) -> None:
        file = "" if self._files.is_single else found.file
        self.skipped.append(Skipped(line=found.line, field=field, problem=problem, file=file))

    def _place(self, found: Found) -> int | str:
        return found.line if self._files.is_single else f"{found.line} of {found.file}"


def _session(data: object) -> ChatSession:
    try:
        return ChatSession.model_validate(data)
    except ValidationError as error:
        problem = first_problem(error)
        if isinstance(data, dict) and data.get("messages") == [] and problem.field == "messages":
            problem = InvalidInput("has no message", field=problem.field)
        raise problem from None


def _tokens(session: ChatSession) -> int:
    return sum(count_tokens(message.text) + MESSAGE_TOKENS for message in session.messages)
