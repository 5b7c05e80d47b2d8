"""The one step of a speech, and the recorded sentences for when no voice answers. It runs inline only, in a gateway."""

import logging
from pathlib import Path

from activities.one_call import OneCall
from parley.domain.requests import SpeechReply
from parley.domain.speech import words_as_heard
from parley.domain.speech_job import Speech, SpeechJob, wav_of

MOST_CLIP_BYTES = 20_000_000

log = logging.getLogger(__name__)


class SpeechStep(OneCall):
    """Has a vendor's voice say a text."""

    async def speak(self, job: SpeechJob) -> Speech:
        """Request the audio, or return the audio that was paid for: the same text, voice and settings are paid once.

        Raises:
            ParleyError: as `PaidCalls.make` does.
        """
        settled = await self.make(job)
        assert isinstance(settled.reply, SpeechReply)  # noqa: S101 - a fingerprint belongs to one kind of request
        return Speech(audio=wav_of(settled.reply), meta=await self.described(job, settled))


def clip_of(directory: Path | None, text: str) -> Speech | None:
    """The recorded sentence like a text: `NAME.wav` beside a `NAME.txt` with its words; None: there is none."""
    if directory is None or not directory.is_dir():
        return None
    words = words_as_heard(text)
    for written in sorted(directory.glob("*.txt")):
        audio = written.with_suffix(".wav")
        try:
            is_said = audio.is_file() and words_as_heard(written.read_text(encoding="utf-8", errors="replace")) == words
            if is_said and audio.stat().st_size <= MOST_CLIP_BYTES:
                return Speech(audio=audio.read_bytes())
        except OSError as error:
            log.warning("%s cannot be read: %s", written.name, error.strerror)
    return None
