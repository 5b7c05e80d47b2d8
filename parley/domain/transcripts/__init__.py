"""Transcripts as services export them, read as they are: one module for each family of formats.

The format is known by its content, never by the name of a file.
"""

from collections.abc import Callable
from typing import Any, cast

from parley.domain.errors import InvalidInput
from parley.domain.hearing import Transcript
from parley.domain.transcripts import assemblyai, deepgram, elevenlabs, rev, subtitles, twilio, whisper
from parley.domain.transcripts.fields import Fields

# Each has a name that no other format has; the last one reads what has segments.
READERS: tuple[tuple[str, Callable[[Fields], Transcript]], ...] = (
    ("monologues", rev.read),
    ("results", deepgram.read),
    ("sentences", twilio.read),
    ("utterances", assemblyai.read),
    ("audio_duration", assemblyai.read),
    ("transcription", whisper.read_cpp),
    ("transcripts", elevenlabs.read_channels),
    ("segments", whisper.read),
    ("language_probability", elevenlabs.read),
    ("words", whisper.read),
)
KNOWN = "Whisper, WhisperX, AssemblyAI, Deepgram, ElevenLabs, Rev, Twilio (JSON), Zoom (VTT), SRT"


def read_json_transcript(data: Any, *, where: str) -> Transcript:
    """A transcript from parsed JSON.

    Raises:
        InvalidInput: it has none of the known formats, or a part of it is wrong; the error names the place.
    """
    if isinstance(data, dict):
        given = cast("dict[str, Any]", data)
        for name, read in READERS:
            if given.get(name) is not None:
                return _with_words(read(Fields(given, where)), where)
    raise InvalidInput(f"is neither a session nor a transcript that is known: {KNOWN}", where=where)


def read_text_transcript(text: str, *, where: str) -> Transcript:
    """A transcript from subtitles, VTT or SRT.

    Raises:
        InvalidInput: it is none, or a line of it is wrong; the error names the line.
    """
    if not subtitles.are_subtitles(text):
        raise InvalidInput(f"is neither a session nor a transcript that is known: {KNOWN}", where=where)
    return _with_words(subtitles.read(text, where), where)


def _with_words(transcript: Transcript, where: str) -> Transcript:
    if not any(passage.text.strip() for passage in transcript.passages):
        raise InvalidInput("has no words", where=where)
    return transcript
