"""OpenAI's embeddings: unit vectors, computed from words and letters, so that similar texts are near."""

import base64
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from starlette.requests import Request

from simulator.openai import ChatCompletions, read_model, refuse_unknown
from simulator.wire import Body, Refusal, Reply, count_tokens, model_name, read_json_object, read_positive

PARAMETERS = frozenset(("dimensions", "encoding_format", "input", "model", "user"))
# The dimensions of OpenAI's models. Fewer can be asked of all but the oldest.
DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
FIXED = ("text-embedding-ada-002",)
LOCAL_DIMENSIONS = 384
MOST_INPUTS, MOST_TOKENS, MOST_TOKENS_TOGETHER = 2048, 8192, 300_000
VOCABULARY = 100_277  # of cl100k_base
WORD = re.compile(r"\w+")
# A word counts as much as its letters.
WORD_WEIGHT, LETTERS_WEIGHT, LETTERS = 2.0, 0.5, 3
PLACES = 8

Input = str | Sequence[int]


@dataclass(frozen=True)
class EmbeddingRequest:
    """What to embed. `dimensions`: the numbers of a vector. `packed`: whether vectors are sent in base64."""

    model: str
    inputs: tuple[Input, ...]
    dimensions: int
    packed: bool

    @property
    def input_tokens(self) -> int:
        return sum(map(_tokens, self.inputs))


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of OpenAI or of a local server, whose other endpoint is `chat`."""

    chat: ChatCompletions

    @property
    def name(self) -> str:
        return self.chat.name

    @property
    def request_id_header(self) -> str:
        return self.chat.request_id_header

    def api_key(self, headers: Mapping[str, str]) -> str | None:
        return self.chat.api_key(headers)

    async def read(self, request: Request) -> EmbeddingRequest:
        body = await read_json_object(request)
        is_local = self.name == "local"  # local servers have other models, and ignore what they do not know
        if not is_local:
            refuse_unknown(body, PARAMETERS)
        model, form = read_model(body), body.get("encoding_format") or "float"
        if form not in ("float", "base64"):
            problem = f"'{form}' is not one of ['float', 'base64'] - 'encoding_format'"
            raise Refusal("bad_request", problem, param="encoding_format")
        dimensions = _dimensions(body, model, LOCAL_DIMENSIONS if is_local else None)
        parsed = EmbeddingRequest(model, _inputs(body.get("input")), dimensions, packed=form == "base64")
        _refuse_too_long(parsed)
        return parsed

    def traits(self, parsed: EmbeddingRequest) -> frozenset[str]:  # noqa: ARG002 (all requests have the same)
        return frozenset()

    async def answer(self, parsed: EmbeddingRequest, number: int, damage: str) -> Reply:  # noqa: ARG002 (no damage)
        vectors = [vector_of(one, parsed.dimensions) for one in parsed.inputs]
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if parsed.packed else vector}
            for index, vector in enumerate(vectors)
        ]
        tokens = parsed.input_tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        body = {"object": "list", "data": data, "model": model_name(parsed.model), "usage": usage}
        return Reply(Body.json(body), tokens)

    def error(self, refusal: Refusal, request_id: str) -> tuple[int, object]:
        return self.chat.error(refusal, request_id)

    def models(self) -> object:
        return self.chat.models()


def vector_of(one: Input, dimensions: int) -> list[float]:
    """The vector of a text, or of a text's tokens. Its numbers are exact as float32."""
    vector = [0.0] * dimensions
    for feature, weight in _features(one):
        digest = blake2b(feature.encode(), digest_size=4 * PLACES).digest()
        for place in struct.unpack(f"<{PLACES}I", digest):
            vector[(place >> 1) % dimensions] += weight if place & 1 else -weight
    length = math.sqrt(sum(number * number for number in vector))
    if not length:  # all features have cancelled each other
        return [1.0, *vector[1:]]
    return list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(n / length for n in vector))))


def _features(one: Input) -> Iterator[tuple[str, float]]:
    if not isinstance(one, str):
        yield from ((f"token {token}", WORD_WEIGHT) for token in one)
        return
    text = f" {one.lower()} "
    yield from ((f"word {word}", WORD_WEIGHT) for word in WORD.findall(text))
    yield from ((text[place : place + LETTERS], LETTERS_WEIGHT) for place in range(len(text) - LETTERS + 1))


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _tokens(one: Input) -> int:
    return count_tokens(one) if isinstance(one, str) else len(one)


def _dimensions(body: Mapping[str, Any], model: str, usual: int | None) -> int:
    if usual is None and model not in DIMENSIONS:
        raise Refusal("no_embeddings")
    most, asked = usual or DIMENSIONS[model], read_positive(body, "dimensions")
    if asked is None or usual:
        return asked or most
    if model in FIXED:
        raise Refusal("bad_request", "This model does not support specifying dimensions.", param="dimensions")
    if asked > most:
        problem = f"Invalid value for 'dimensions' = {asked}. Must be less than or equal to {most}."
        raise Refusal("bad_request", problem, param="dimensions")
    return asked


def _inputs(given: object) -> tuple[Input, ...]:
    inputs: Any = [given] if isinstance(given, str) or _are_tokens(given) else given
    is_list = isinstance(inputs, list) and len({type(one) for one in inputs}) == 1
    if not is_list or not all(one and (isinstance(one, str) or _are_tokens(one)) for one in inputs):
        raise Refusal("bad_request", "'$.input' is invalid. Please check the API reference.", param="input")
    if len(inputs) > MOST_INPUTS:
        problem = f"Invalid 'input': array too long. Expected an array with maximum length {MOST_INPUTS}."
        raise Refusal("bad_request", problem, param="input")
    if any(not isinstance(one, str) and not 0 <= min(one) <= max(one) < VOCABULARY for one in inputs):
        raise Refusal("bad_request", f"Invalid 'input': a token is not from 0 to {VOCABULARY - 1}.", param="input")
    return tuple(inputs)


def _are_tokens(given: Any) -> bool:
    return isinstance(given, list) and all(type(one) is int for one in given)


def _refuse_too_long(parsed: EmbeddingRequest) -> None:
    longest = max(map(_tokens, parsed.inputs))
    if longest > MOST_TOKENS:
        problem = (
            f"This model's maximum context length is {MOST_TOKENS} tokens, however you requested {longest} tokens."
        )
        raise Refusal("bad_request", problem)
    if parsed.input_tokens > MOST_TOKENS_TOGETHER:
        problem = f"Requested {parsed.input_tokens} tokens, max {MOST_TOKENS_TOGETHER} tokens per request"
        raise Refusal("bad_request", problem, code="max_tokens_per_request")
