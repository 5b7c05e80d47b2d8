"""The activity that measures the sound of a recording. It is CPU work, on a queue of its own."""

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import takewhile
from threading import Event
from typing import TYPE_CHECKING

from temporalio import activity

from activities.boundary import boundary
from parley.domain.errors import InvalidInput
from parley.domain.session import Session
from parley.domain.session_analysis import AcousticsOutcome, AcousticsStep
from parley.domain.speaking import speech_of
from parley.domain.voice_metrics import Acoustics, Curves
from parley.storage import analyses
from parley.storage.database import Database
from parley.storage.sessions import load_recording, load_session
from parley.storage.tables import Recording

if TYPE_CHECKING:
    from parley.audio import Sound

LIBRARIES = ("av", "numpy", "praatfan_rust")
# The sound of a shorter recording is kept while it is measured; that of a longer one is decoded twice.
KEPT_SECONDS = 300
NOT_INSTALLED = "the worker has no acoustics: install 'parley[acoustics]'"


class AcousticsActivities:
    """Activities of one worker, on its database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="session_analysis.measure_acoustics")
    @boundary
    async def measure_acoustics(self, step: AcousticsStep) -> AcousticsOutcome:
        """Measure pitch and loudness of the user's speech, and store them. The outcome says why they cannot be.

        The work is done in a thread, block by block, and ends with its block if the activity is cancelled.
        """
        job = step.input
        if not all(find_spec(name) for name in LIBRARIES):
            return AcousticsOutcome(problem=NOT_INSTALLED)
        async with self._database.transaction() as tx:
            recording = await load_recording(tx, job.workspace_id, job.recording_sha256 or "")
            session = await load_session(tx, job.workspace_id, job.session_id, job.session_sha256)
        stop = Event()
        try:
            acoustics, curves = await asyncio.to_thread(_measure, recording, session, stop)
        except InvalidInput as error:
            return AcousticsOutcome(problem=str(error))
        finally:
            stop.set()
        parts = {
            "acoustics": acoustics.model_dump(mode="json"),
            "curves": curves and curves.model_dump(mode="json"),
        }
        async with self._database.transaction() as tx:
            await analyses.store_parts(tx, job.workspace_id, step.job_key, **parts)
        return AcousticsOutcome()


def _measure(recording: Recording, session: Session, stop: Event) -> tuple[Acoustics, Curves | None]:
    # FFmpeg and numpy are loaded where they work: workflows import this module for the activity's name.
    from parley.acoustics import RATE, measured  # noqa: PLC0415
    from parley.audio import decode_blocks  # noqa: PLC0415

    def decoded() -> Iterator["Sound"]:
        return takewhile(lambda _: not stop.is_set(), decode_blocks(recording.audio, rate=RATE))

    kept = tuple(decoded()) if recording.seconds <= KEPT_SECONDS else ()
    return measured(lambda: kept or decoded(), speech_of(session, "rep"), speech_of(session, "prospect"))
