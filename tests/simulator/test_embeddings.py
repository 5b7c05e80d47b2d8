"""The simulator's embeddings with OpenAI's SDK."""

import math
from typing import Any

import openai
import pytest

from simulator.embeddings import vector_of
from simulator.wire import count_tokens

SMALL = "text-embedding-3-small"

REFUSED: list[dict[str, Any]] = [
    {"input": ""},
    {"input": []},
    {"input": ["a", ""]},
    {"input": [[1], []]},
    {"input": ["a", [1]]},
    {"input": [1.5]},
    {"input": {"a": 1}},
    {"input": ["a"] * 2049},
    {"input": [100_277]},
    {"input": [-1]},
    {"input": [1] * 8193},
    {"input": [[1] * 8000] * 38},
    {"dimensions": 1537},
    {"dimensions": 0},
    {"model": "text-embedding-ada-002", "dimensions": 8},
    {"encoding_format": "hex"},
    {"extra_body": {"truncate": True}},
]


def nearness(one: str, other: str) -> float:
    return sum(a * b for a, b in zip(vector_of(one, 512), vector_of(other, 512), strict=True))


@pytest.mark.parametrize("text", ["a", "  ", "!!!", "\U0001f389", "Hello " * 500])
@pytest.mark.parametrize("dimensions", [1, 3, 1536])
def test_every_text_has_a_unit_vector(text: str, dimensions: int):
    vector = vector_of(text, dimensions)
    assert math.isclose(math.hypot(*vector), 1, rel_tol=1e-5)
    assert vector == vector_of(text, dimensions)


def test_nearness_follows_the_words_and_the_letters():
    asked = "How do I cancel my order?"
    near, spelt, far = "cancel my order please", "How do I cancell my ordre", "The invoice is wrong"
    assert min(nearness(asked, near), nearness(asked, spelt)) > nearness(asked, far) + 0.2
    assert nearness(asked, asked.upper()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "dimensions"), [(SMALL, 1536), ("text-embedding-3-large", 3072), ("text-embedding-ada-002", 1536)]
)
async def test_a_model_has_its_dimensions(openai_client, model: str, dimensions: int):
    made = await openai_client.embeddings.create(model=model, input="hello")
    assert [len(one.embedding) for one in made.data] == [dimensions]


async def test_both_forms_are_one_vector_and_the_bill_is_of_the_tokens(openai_client, admin):
    floats, packed = [
        await openai_client.embeddings.create(model=SMALL, input=["one", "two words"], **form)
        for form in ({"encoding_format": "float"}, {})
    ]
    assert floats.data == packed.data
    assert floats.usage.prompt_tokens == count_tokens("one") + count_tokens("two words")
    assert {one["input_tokens"] for one in await admin.get("requests")} == {floats.usage.prompt_tokens}


@pytest.mark.parametrize("given", REFUSED, ids=lambda given: str(given)[:40])
async def test_what_openai_refuses_is_refused(openai_client, admin, given: dict[str, Any]):
    with pytest.raises(openai.BadRequestError):
        await openai_client.embeddings.create(**{"model": SMALL, "input": "a", **given})
    assert (await admin.only_request())["billed"] is False


async def test_a_model_of_chats_makes_none(openai_client):
    with pytest.raises(openai.PermissionDeniedError):
        await openai_client.embeddings.create(model="gpt-4o-mini", input="a")


async def test_a_local_server_has_any_model(local_client):
    assert (await local_client.embeddings.create(model="nomic", input="a", extra_body={"truncate": True})).data
