"""Files in requests: stored on the disk while they arrive, and never whole in memory. Their names are not trusted."""

import asyncio
import re
import shutil
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, Unpack

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, Headers, UploadFile

from parley.client.importing import Imported, ReadingOptions, import_chats
from parley.client.reading import first_problem, read_json
from parley.domain.errors import InvalidInput
from parley.settings import Settings
from parley.storage.database import Database

MULTIPART = "multipart/form-data"
MOST_PARTS = 4
# Of a part that is not a file.
PART_BYTES = 6_000_000
# Of a file name, which file systems limit to 255.
NAME_BYTES = 200

ModelT = TypeVar("ModelT", bound=BaseModel)


@asynccontextmanager
async def parts_of(request: Request) -> AsyncIterator[FormData]:
    """The parts of a multipart body. Its temporary files are removed at the end."""
    async with request.form(max_files=MOST_PARTS, max_fields=MOST_PARTS, max_part_size=PART_BYTES) as form:
        yield form


def is_multipart(headers: Headers) -> bool:
    """Whether a body has parts, of which files are stored on the disk."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == MULTIPART


async def text_of(form: FormData, name: str, limit: int = PART_BYTES) -> str | None:
    """A part as text, sent as a field or as a file; None if there is none.

    Raises:
        InvalidInput: it is longer than `limit` bytes, or not UTF-8.
    """
    part = form.get(name)
    if part is None or isinstance(part, str):
        return part
    content = await bytes_of(part, name, limit)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"is not UTF-8: byte {error.start}; save it as UTF-8", where=name) from None


async def bytes_of(part: Any, name: str, limit: int) -> bytes:
    """The content of a file.

    Raises:
        InvalidInput: it is not a file, or has more than `limit` bytes.
    """
    if not isinstance(part, UploadFile):
        raise InvalidInput("must be a file", where=name)
    content = await part.read(limit + 1)
    if len(content) > limit:
        raise InvalidInput(f"has more than the {limit:,} bytes allowed", where=name)
    return content


def checked(model: type[ModelT], data: Any, *, where: str) -> ModelT:
    """Data as a model.

    Raises:
        InvalidInput: it is not valid; the error names the field.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise first_problem(error, where=where) from None


def json_of(text: str, *, where: str) -> Any:
    """Parse strict JSON. `where`: the name of the part."""
    return read_json(text, where=where)


async def import_upload(
    settings: Settings,
    workspace_id: str,
    part: Any,
    *,
    name: str = "file",
    **how: Unpack[ReadingOptions],
) -> Imported:
    """Import an uploaded file of chat sessions. `how` it is read.

    Raises:
        InvalidInput: the part is not a file, or a line of it is not valid.
    """
    if not isinstance(part, UploadFile):
        raise InvalidInput("must be a file of chat sessions", where=name)
    with TemporaryDirectory(prefix="parley-upload-") as directory:
        path = Path(directory) / safe_name(part.filename or "")
        # In another thread with connections of its own: the tokens of a large file are counted for minutes, and other
        # requests of this process must not wait for them.
        return await asyncio.to_thread(_import, settings, workspace_id, part, path, how)


def _import(settings: Settings, workspace_id: str, part: UploadFile, path: Path, how: ReadingOptions) -> Imported:
    with path.open("wb") as file:
        shutil.copyfileobj(part.file, file)
    return asyncio.run(_import_file(settings, workspace_id, path, how))


async def _import_file(settings: Settings, workspace_id: str, path: Path, how: ReadingOptions) -> Imported:
    assert settings.database_url is not None  # noqa: S101 - the gateway does not start without it
    database = Database(settings.database_url, pool_size=1)
    try:
        return await import_chats(database, workspace_id, path, **how)
    finally:
        await database.close()


def safe_name(given: str) -> str:
    """A file name that is only a name: no directory, no characters with a meaning, not empty, not hidden.

    Letters of all languages stay: some formats have the name of a person in that of their file.
    """
    last = unicodedata.normalize("NFC", PureWindowsPath(PurePosixPath(given).name).name)
    plain = re.sub(r"[^\w.-]+", "_", last).encode()[-NAME_BYTES:].decode(errors="ignore").lstrip("._-")
    return plain or "upload.jsonl"
