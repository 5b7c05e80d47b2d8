"""The vectors of some texts: contract and ids. It is one paid request, without a workflow."""

import hashlib
import json
from typing import Annotated

from pydantic import Field

from parley.domain.generate.contract import Identifier, Meta
from parley.domain.model import Model, Name, WorkspaceId
from parley.domain.requests import EmbeddingRequest, Inputs, Provider, request_id

DEFAULT_ACTION = "ai_embedding"
STEP = "embedding"
JOB_PREFIX = "embedding:"


class EmbeddingInput(Inputs):
    """What to embed, for which user. The action's policy has the energy, and the most that it may cost.

    provider, model: the only one. Vectors of different models cannot be compared, so nothing else is tried.
    """

    workspace_id: WorkspaceId
    user_id: Identifier
    action: Name = DEFAULT_ACTION
    provider: Provider
    model: Annotated[Name, Field(min_length=1)]

    def fingerprint(self) -> str:
        """SHA-256 of what is asked."""
        asked = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(asked.encode()).hexdigest()

    @property
    def request(self) -> EmbeddingRequest:
        """What a provider is asked."""
        return EmbeddingRequest(inputs=self.inputs, dimensions=self.dimensions)


class EmbeddingJob(Model):
    """An embedding under the caller's idempotency key."""

    input: EmbeddingInput
    key: str

    @property
    def id(self) -> str:
        """The id in the ledger, in the place of that of a workflow."""
        return f"{STEP}/{self.input.workspace_id}/{self.key}"

    @property
    def job_key(self) -> str:
        """The same for all requests under the key."""
        return f"{JOB_PREFIX}{hashlib.sha256(self.id.encode()).hexdigest()[:32]}"

    @property
    def request_id(self) -> str:
        """The id of the one paid request."""
        return request_id(self.job_key, STEP)


class EmbeddingResult(Model):
    """A vector for each input, packed as in `parley.domain.vectors`, and what they cost."""

    vectors: tuple[str, ...] = Field(repr=False)
    meta: Meta
