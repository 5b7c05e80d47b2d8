"""Writes the report of an analysis or of a labelling run as one HTML page."""

import asyncio
import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from parley import AnalysisHandle, AnalysisReport, AutoAnalyzeHandle, InvalidInput, NotFound
from parley.cli.console import err
from parley.cli.exporting import replacing
from parley.client.reading import recording_seconds


def in_a_directory(path: Path | None) -> Path | None:
    """The path of a file to write, checked before a job is started and paid for.

    Raises:
        InvalidInput: its directory does not exist or cannot be written to.
    """
    if path is not None and not os.access(path.parent, os.W_OK | os.X_OK):
        code = errno.EACCES if path.parent.is_dir() else errno.ENOENT
        raise InvalidInput(f"cannot be written: {os.strerror(code)}", where=str(path))
    return path


async def write_report(
    job: AnalysisHandle | AutoAnalyzeHandle, found: Any, path: Path, recording: Path | None = None
) -> None:
    """Write the page of a labelling run, or of an analysis that has a result, with its recording.

    A recording that is too large for a page is made smaller; one that is too long for that is linked where its file is
    known.

    Raises:
        InvalidInput: the analysis has no result, or the file cannot be written.
    """
    if isinstance(job, AutoAnalyzeHandle):
        await _write_labelling(job, path)
        return
    if not isinstance(found, AnalysisReport) or found.analysis is None:
        raise InvalidInput("only a labelling run, or an analysis that has a result, has a report", where="--html")
    # Here, because a template engine takes 50 ms to load.
    from parley.report.page import MOST_EMBEDDED, report_page  # noqa: PLC0415

    audio = session = None
    with suppress(NotFound):  # it had no recording, or what it had has been purged
        audio = await job.recording()
    with suppress(NotFound):  # it has been purged
        session = await job.session()
    link = _address(recording, path) if recording else ""
    played = audio and await asyncio.to_thread(_playable, audio.content, MOST_EMBEDDED)
    with replacing(path) as part:
        part.write_text(report_page(found.analysis, session, played, link=link), "utf-8")
    err.say(f"report written to {path}")
    if played and len(played) > MOST_EMBEDDED:
        err.say(f"it plays {recording}, which must stay there" if link else "the recording is too large for the page")


async def _write_labelling(job: AutoAnalyzeHandle, path: Path) -> None:
    """The page is written as its sessions are read, and replaces an earlier one when it is complete."""
    from parley.report.labelling import write_page  # noqa: PLC0415 - a template engine takes 50 ms to load

    overview = await job.overview()
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        await write_page(overview, job.quoted_sessions(), file)
    err.say(f"report written to {path}")


def _playable(audio: bytes, most_bytes: int) -> bytes:
    """The recording, or a smaller one where it is too large. Returned as it is where that cannot be made."""
    if len(audio) <= most_bytes:
        return audio
    from parley.report.shrinking import smaller  # noqa: PLC0415 - FFmpeg is loaded for large recordings only

    with suppress(InvalidInput):
        return smaller(audio, recording_seconds(audio), most_bytes) or audio
    return audio


def _address(recording: Path, page: Path) -> str:
    """The address of the recording from the page."""
    return quote(os.path.relpath(recording, page.parent).replace(os.sep, "/"))
