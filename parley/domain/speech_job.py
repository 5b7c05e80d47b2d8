"""The speech of a text: contract and ids. It is one paid request, without a workflow.

Its ids follow from what is asked, so that the same text with the same voice and settings is paid once in a
workspace, for as long as its reply is kept.
"""

import hashlib
import io
import wave

from parley.domain.generate.contract import Identifier, Meta
from parley.domain.model import Model, Name, WorkspaceId
from parley.domain.one_call import OneCallJob
from parley.domain.requests import Provider, SpeechReply, SpeechRequest, fingerprint

DEFAULT_ACTION = "ai_speech"


class SpeechInput(Model):
    """What to say, for which user. The action's policy has the energy, and the most that it may cost."""

    workspace_id: WorkspaceId
    user_id: Identifier
    action: Name = DEFAULT_ACTION
    provider: Provider = Provider.ELEVENLABS
    model: Name
    request: SpeechRequest

    def fingerprint(self) -> str:
        """SHA-256 of what is asked, with the model: another one has another voice."""
        return hashlib.sha256(f"{self.model}/{fingerprint(self.request)}".encode()).hexdigest()


class SpeechJob(OneCallJob):
    """The speech of a text: the same one has the same ids."""

    step = "speech"
    input: SpeechInput

    @property
    def of(self) -> tuple[str, str]:
        """The workspace, and the idempotency key within it."""
        return self.input.workspace_id, self.input.fingerprint()


class Speech(Model):
    """A WAV file that says a text, and what it cost. `meta` is None for a recorded sentence, which costs nothing."""

    audio: bytes
    meta: Meta | None = None


def wav_of(reply: SpeechReply) -> bytes:
    """The samples of a reply as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(reply.sample_rate)
        writer.writeframes(reply.audio)
    return file.getvalue()
