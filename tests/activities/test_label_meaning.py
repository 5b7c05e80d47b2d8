"""Labels and sessions are compared by the vectors of what users said, where this worker computes them."""

from collections.abc import Sequence
from threading import get_ident

import pytest

from activities.auto_analyze.meaning import TEXTS_AT_ONCE, LabelVectors, Meaning
from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.likeness import Likeness
from parley.domain.auto_analyze.merging import differ
from parley.domain.auto_analyze.reassigning import Doubt
from parley.embedder import Embedder, Vector, process_embedder
from parley.embedder.index import VectorIndex

LATE = LabelEvidence(label="late card", sessions=5, examples=("my card has not arrived", "where is my card"))
PIN = LabelEvidence(label="new pin", sessions=3, examples=("change my pin", "I want another pin for my account"))
FEE = LabelEvidence(label="fee", sessions=2, examples=("why did you charge me a fee",))
BARE = LabelEvidence(label="bare", sessions=2)


class Broken(Embedder):
    """A model whose runtime fails at the second call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    async def vectors(self, texts: Sequence[str], *, most_tokens: int = 128) -> list[Vector]:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("the runtime fails")
        return await super().vectors(texts, most_tokens=most_tokens)


@pytest.fixture
def meaning() -> Meaning:
    return Meaning(process_embedder())


def product(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_labels_of_one_meaning_are_near_without_a_common_word(meaning: Meaning):
    digits = LabelEvidence(label="digits", examples=("set a different code", "use other digits at the cash machine"))
    found = await meaning.of_labels([LATE, PIN, FEE, digits, BARE])
    assert found.keys() == {"late card", "new pin", "digits"}
    near, far = (product(found["digits"].mean, found[label].mean) for label in ("new pin", "late card"))
    assert near > far


async def test_the_product_of_two_means_is_the_mean_likeness_of_their_examples(meaning: Meaning):
    found = await meaning.of_labels([LATE, PIN])
    texts = await meaning.of_texts([*LATE.examples, *PIN.examples])
    pairs = [product(texts[one], texts[other]) for one in LATE.examples for other in PIN.examples]
    assert product(found["late card"].mean, found["new pin"].mean) == pytest.approx(sum(pairs) / len(pairs))
    assert found["late card"].coherence == pytest.approx(product(*(texts[one] for one in LATE.examples)))


async def test_labels_of_messy_chats_are_merged_as_a_reply_says(meaning: Meaning):
    """What users said first in these sessions of the samples is alike to nothing, also within one label."""
    one = LabelEvidence(
        label="change tariff", examples=("upgrade to 500", "is there anything cheaper for a student lol")
    )
    other = LabelEvidence(
        label="tariff change", examples=("i got moved to a 2 year contract", "go back to the old one")
    )
    words = Likeness({label.label: label.text for label in (one, other)})
    assert not differ(one, other, words, await meaning.of_labels([one, other]))
    assert differ(LATE, PIN, words, await meaning.of_labels([LATE, PIN]))


async def test_examples_of_a_language_that_the_model_does_not_know_are_left_to_words(meaning: Meaning):
    """ "I want my money back" is not near to the same in German."""
    refund = LabelEvidence(label="refund", examples=("I want my money back", "Ich will mein Geld zurück haben"))
    geld = LabelEvidence(label="geld", examples=("Ich möchte mein Geld zurück",))
    found = await meaning.of_examples([refund, geld])
    assert {label: [*examples] for label, examples in found.items()} == {"refund": ["I want my money back"]}


async def test_a_session_in_another_language_stays_in_doubt_by_its_words(meaning: Meaning):
    vectors = LabelVectors(meaning, await meaning.of_examples([LATE, PIN]))
    doubts = {1: Doubt("meine Karte ist noch nicht angekommen", "late card", ("new pin",))}
    assert await vectors.doubts(doubts) == doubts


@pytest.mark.parametrize(
    ("text", "is_known"),
    [
        ("where is my parcel?", True),
        ("Please reset the password of my account, I forgot it.", True),
        ("", True),
        ("ich habe mein Passwort vergessen", False),
        ("remboursement s'il vous plaît", False),
        ("¿dónde está mi pedido?", False),
        ("gdzie jest moja paczka", False),
        ("荷物が届きません", False),
        ("我忘记了密码", False),
        ("где моя посылка", False),
        ("لم يصل طردي", False),
    ],
)
def test_a_language_that_the_model_does_not_know_has_words_of_many_pieces(text: str, is_known: bool):
    assert process_embedder().knows(text) == is_known


async def test_a_session_in_doubt_chooses_among_the_nearest_labels(meaning: Meaning):
    vectors = LabelVectors(meaning, await meaning.of_examples([LATE, PIN, FEE]))
    wrong = Doubt("I want to use other digits at the cash machine", "late card", ("fee",))
    right = Doubt("the card did not come yet", "late card", ("fee",))
    found = await vectors.doubts({3: wrong, 5: right})
    assert found == {3: wrong._replace(candidates=("new pin", "fee"))}


async def test_a_session_does_not_speak_for_its_own_label(meaning: Meaning):
    """It is an example of its label, so that it would always be nearest to itself."""
    odd = PIN.model_copy(update={"examples": ("where is the card that you sent me", *PIN.examples)})
    vectors = LabelVectors(meaning, await meaning.of_examples([LATE, odd]))
    doubt = Doubt("where is the card that you sent me", "new pin", ("late card",))
    assert await vectors.doubts({1: doubt}) == {1: doubt}


async def test_a_label_whose_only_example_is_the_session_is_in_doubt(meaning: Meaning):
    vectors = LabelVectors(meaning, await meaning.of_examples([LATE, FEE]))
    doubt = Doubt(FEE.examples[0], "fee", ("late card",))
    assert await vectors.doubts({1: doubt}) == {1: doubt}


async def test_words_alone_decide_without_a_model(meaning: Meaning):
    assert await Meaning().of_labels([LATE]) == await Meaning().of_examples([LATE]) == {}
    assert await meaning.of_labels([BARE]) == {}


async def test_a_model_that_fails_leaves_doubts_as_they_are(caplog: pytest.LogCaptureFixture):
    meaning = Meaning(Broken())
    vectors = LabelVectors(meaning, await meaning.of_examples([LATE, PIN]))
    doubts = {1: Doubt("the card did not come yet", "late card", ("new pin",))}
    assert await vectors.doubts(doubts) == doubts
    assert "words are compared" in caplog.text


async def test_the_event_loop_does_not_wait_for_the_words_of_many_texts(monkeypatch: pytest.MonkeyPatch):
    """A run has thousands of examples, and a text takes 0.1 ms: streams of other users wait meanwhile."""
    threads: set[int] = set()

    def knows(_: str) -> bool:
        threads.add(get_ident())
        return True

    embedder = process_embedder()
    monkeypatch.setattr(embedder, "knows", knows)
    assert len(await Meaning(embedder).of_texts(PIN.examples)) == len(PIN.examples)
    assert threads and get_ident() not in threads


async def test_many_texts_are_computed_a_few_at_once():
    embedder = Broken()
    assert await Meaning(embedder).of_texts([f"text {at}" for at in range(TEXTS_AT_ONCE + 1)]) == {}
    assert embedder.calls == 2


def test_an_index_compares_by_the_cosine():
    index = VectorIndex({"a": [2.0, 0.0], "b": [1.0, 1.0]})
    assert index.likeness([1.0, 0.0]) == {"a": pytest.approx(1.0), "b": pytest.approx(0.5**0.5)}
    assert VectorIndex({}).likeness([1.0, 0.0]) == {}
