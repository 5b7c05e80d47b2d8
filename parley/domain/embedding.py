"""The vectors of some texts: contract and ids. It is one paid request, without a workflow."""

import hashlib
import json
from typing import Annotated

from pydantic import Field

from parley.domain.generate.contract import Identifier, Meta
from parley.domain.model import Model, Name, WorkspaceId
from parley.domain.one_call import OneCallJob
from parley.domain.requests import EmbeddingRequest, Inputs, Provider

DEFAULT_ACTION = "ai_embedding"


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


class EmbeddingJob(OneCallJob):
    """An embedding under the caller's idempotency key."""

    step = "embedding"
    input: EmbeddingInput
    key: str

    @property
    def of(self) -> tuple[str, str]:
        """The workspace, and the idempotency key within it."""
        return self.input.workspace_id, self.key


class EmbeddingResult(Model):
    """A vector for each input, packed as in `parley.domain.vectors`, and what they cost."""

    vectors: tuple[str, ...] = Field(repr=False)
    meta: Meta
