"""Embeddings on OpenAI's SDK: what is sent, how a reply is read, and the simulator's side of it."""

import base64
import struct
from typing import Any

import pytest

from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    Billed,
    ContextTooLong,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from parley.domain.requests import EmbeddingReply, EmbeddingRequest, Provider
from parley.domain.vectors import unpacked
from tests.parts import SimulatorAdmin
from tests.providers.vendors import ReceivedRequest, answering, providers, real, simulated

SMALL = "text-embedding-3-small"
OPENAI, LOCAL, ANTHROPIC, ELEVENLABS = Provider.OPENAI, Provider.LOCAL, Provider.ANTHROPIC, Provider.ELEVENLABS
OF_OPENAI = pytest.mark.parametrize("provider", [OPENAI, LOCAL])
PACKED = base64.b64encode(struct.pack("<2f", 0.5, 0.25)).decode()


def asked(*inputs: Any, dimensions: int | None = None) -> EmbeddingRequest:
    return EmbeddingRequest(inputs=inputs or ("one", "two"), dimensions=dimensions)


def body(*vectors: object, **fields: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return {"object": "list", "data": data, "model": "text-embedding-3-small-2024", "usage": usage, **fields}


GOOD = body([0.5, 0.25], PACKED)


async def ask(given: object, provider: Provider = OPENAI, *, status: int = 200, **changes: Any) -> EmbeddingReply:
    async with answering(given, status) as stub, providers(real(stub.url)) as opened:
        reply = await opened.adapter(provider).call(asked(**changes), SMALL, "attempt-1")
    assert isinstance(reply, EmbeddingReply)
    return reply


async def failure(given: object, **changes: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await ask(given, **changes)
    return caught.value


async def sent(provider: Provider, request: EmbeddingRequest) -> ReceivedRequest:
    async with answering(GOOD) as stub, providers(real(stub.url)) as opened:
        await opened.adapter(provider).call(request, SMALL, "attempt-1")
    [received] = stub.requests
    return received


@pytest.mark.parametrize(("provider", "form"), [(OPENAI, "base64"), (LOCAL, "float")])
async def test_what_is_sent(provider: Provider, form: str):
    received = await sent(provider, asked("one", "two", dimensions=2))
    assert received.json == {"model": SMALL, "input": ["one", "two"], "encoding_format": form, "dimensions": 2}
    assert received.headers["x-parley-attempt-id"] == "attempt-1"
    assert (await sent(provider, asked((1, 2), (3,)))).json["input"] == [[1, 2], [3]]


@OF_OPENAI
async def test_a_reply_may_have_either_form_and_any_order(provider: Provider):
    data = list(reversed(GOOD["data"]))
    data[0] = {**data[0], "embedding": [1.0, 2.0]}
    reply = await ask({**GOOD, "data": data}, provider)
    assert [unpacked(one) for one in reply.vectors] == [[0.5, 0.25], [1.0, 2.0]]
    assert (reply.model, reply.usage.input_tokens, reply.usage.output_tokens) == ("text-embedding-3-small-2024", 5, 0)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1}])
async def test_without_counts_the_vectors_are_kept_and_the_cost_is_uncertain(usage: object):
    reply = await ask({**GOOD, "usage": usage})
    assert (len(reply.vectors), reply.usage.is_known) == (2, False)


@pytest.mark.parametrize(
    "broken",
    [
        body([0.5, 0.25]),
        body([0.5], [0.5], [0.5]),
        body([0.5, 0.25], [0.5]),
        body([0.5], ["a"]),
        body([0.5], None),
        body([], []),
        {**GOOD, "data": [{**one, "index": 0} for one in GOOD["data"]]},
        {**GOOD, "data": [{**one, "index": None} for one in GOOD["data"]]},
        {**GOOD, "data": None},
    ],
)
async def test_a_reply_that_is_not_one_vector_for_each_input_was_billed(broken: object):
    error = await failure(broken)
    assert (type(error), error.billed) == (MalformedReply, Billed.YES)
    assert error.usage is not None and error.usage.input_tokens == 5


@pytest.mark.parametrize("broken", [b"OK", [], {"object": "list"}])
async def test_another_body_is_malformed(broken: object):
    assert isinstance(await failure(broken), MalformedReply)


async def test_an_error_in_the_body_of_a_200_is_that_error():
    error = await failure({"error": {"message": "Slow down", "code": "rate_limit_exceeded"}})
    assert isinstance(error, RateLimited)


async def test_a_model_that_ignores_the_dimensions_is_refused_for_good():
    error = await failure(GOOD, dimensions=3)
    assert (type(error), error.billed, error.retryable) == (BadRequest, Billed.YES, False)


async def test_too_many_tokens_together_is_too_long():
    message = "Requested 402378 tokens, max 300000 tokens per request"
    error = await failure({"error": {"message": message, "code": "max_tokens_per_request"}}, status=400)
    assert isinstance(error, ContextTooLong)


@pytest.mark.parametrize("provider", [ANTHROPIC, ELEVENLABS])
async def test_vendors_without_embeddings_are_not_asked(provider: Provider):
    async with answering(GOOD) as stub, providers(real(stub.url)) as opened:
        with pytest.raises(BadRequest, match="cannot serve a request of the kind embedding"):
            await opened.adapter(provider).call(asked(), SMALL, "attempt-1")
    assert stub.requests == []


async def test_vectors_are_not_streamed():
    async with answering(GOOD) as stub, providers(real(stub.url)) as opened:
        with pytest.raises(BadRequest, match="cannot serve"):
            await anext(opened.adapter(OPENAI).stream(asked(), SMALL, "attempt-1"))
    assert stub.requests == []


@pytest.mark.parametrize(
    ("fault", "error", "billed"),
    [
        ("rate_limit", RateLimited, Billed.NO),
        ("auth", AuthenticationFailed, Billed.NO),
        ("server_error", ProviderUnavailable, Billed.NO),
        ("html", ProviderUnavailable, Billed.UNKNOWN),
        ("cut", ProviderUnavailable, Billed.UNKNOWN),
        ("not_json", MalformedReply, Billed.UNKNOWN),
    ],
)
async def test_a_fault_of_the_simulator_is_one_error_and_one_request(
    fault: str, error: type[ProviderError], billed: Billed, simulator: SimulatorAdmin
):
    await simulator.fault(fault)
    async with providers(simulated(simulator.url)) as opened:
        with pytest.raises(error) as caught:
            await opened.adapter(OPENAI).call(asked(), SMALL, "attempt-1")
    assert caught.value.billed is billed
    assert len(await simulator.requests()) == 1


@OF_OPENAI
async def test_the_simulator_bills_what_it_counts(provider: Provider, simulator: SimulatorAdmin):
    async with providers(simulated(simulator.url)) as opened:
        reply = await opened.adapter(provider).call(asked("hello there", "two", dimensions=8), SMALL, "attempt-1")
    assert isinstance(reply, EmbeddingReply)
    [billed] = await simulator.billed()
    assert (billed["attempt_id"], billed["input_tokens"]) == ("attempt-1", reply.usage.input_tokens)
    assert [len(unpacked(one)) for one in reply.vectors] == [8, 8]
