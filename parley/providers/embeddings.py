"""OpenAI's embeddings: a request as the SDK takes it, and its reply."""

from typing import Any

from openai.types import CreateEmbeddingResponse

from parley.domain.errors import BadRequest
from parley.domain.requests import EmbeddingReply, EmbeddingRequest, Provider, Usage
from parley.domain.vectors import length, packed
from parley.providers.protocol import usage_kept


def embedding_arguments(provider: Provider, request: EmbeddingRequest, model: str) -> dict[str, Any]:
    """The arguments of the SDK's call. Not every compatible server can pack vectors."""
    form = "base64" if provider is Provider.OPENAI else "float"
    inputs = [one if isinstance(one, str) else list(one) for one in request.inputs]
    dimensions = {} if request.dimensions is None else {"dimensions": request.dimensions}
    return {"model": model, "input": inputs, "encoding_format": form, **dimensions}


def embedding_reply(
    provider: str, request: EmbeddingRequest, response: CreateEmbeddingResponse, usage: Usage | None
) -> EmbeddingReply:
    """The vectors of a response, in the order of the inputs.

    Raises:
        MalformedReply: they are not one for each input, or not vectors of one length.
        BadRequest: the model has ignored the dimensions.
    """
    with usage_kept(provider, usage):
        made = sorted(response.data, key=lambda one: one.index)
        if [one.index for one in made] != list(range(len(request.inputs))):
            raise ValueError(f"{len(made)} vectors for {len(request.inputs)} inputs")
        vectors = tuple(packed(one.embedding) for one in made)
        lengths = {length(one) for one in vectors}
        if len(lengths) > 1:
            raise ValueError("the vectors have different lengths")
        reply = EmbeddingReply(vectors=vectors, usage=usage or Usage(is_known=False), model=response.model or "")
    if request.dimensions not in (None, *lengths):
        problem = f"the model gives vectors of {lengths.pop()} numbers, whatever is asked for: leave out `dimensions`"
        raise BadRequest(provider, problem, usage=usage)
    return reply
