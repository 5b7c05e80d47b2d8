"""Which sessions are looked at again, what they may choose, and what a reply may change."""

import json
from typing import Any

import pytest

from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.prompts import reassignment_request
from parley.domain.auto_analyze.reassigning import (
    Choices,
    Decisions,
    Doubt,
    Labelled,
    by_meaning,
    parts,
    read_decisions,
)
from parley.domain.requests import Finish
from tests.domain.auto_analyze.chats import reply

CARD = LabelEvidence(label="late card", sessions=5, examples=("my card has not arrived", "where is my card"))
PIN = LabelEvidence(label="new pin", sessions=3, examples=("change my pin", "choose another pin"))
RARE = LabelEvidence(label="name of a star", sessions=1, examples=("name a star for me",))
CHOICES = Choices([CARD, PIN, RARE])
DOUBTS = {
    "s1": Doubt("change the pin of my card", "late card", ("new pin",)),
    "s2": Doubt("name a star for me", "name of a star", ("late card", "new pin")),
}


def labelled(said: str, label: str, ordinal: int = 99) -> Labelled:
    return Labelled(ordinal, said, label)


def answer(*items: tuple[str, Any]) -> Any:
    return reply({"sessions": [{"id": name, "label": label} for name, label in items]})


class TestDoubts:
    def test_a_session_that_is_clearly_like_its_label_is_not_looked_at(self):
        assert CHOICES.doubt(labelled("when will my card arrive", "late card")) is None

    def test_a_session_that_is_more_like_another_label_chooses(self):
        found = CHOICES.doubt(labelled("change my pin", "late card"))
        assert found is not None
        assert (found.label, found.candidates[0]) == ("late card", "new pin")

    def test_a_rare_label_is_not_offered_and_may_be_kept(self):
        found = CHOICES.doubt(labelled("name a star, not my card", "name of a star"))
        assert found is not None
        assert "name of a star" not in found.candidates
        other = CHOICES.doubt(labelled("name a star, not my pin", "late card"))
        assert other is not None
        assert "name of a star" not in other.candidates

    def test_a_session_without_any_likeness_keeps_its_label(self):
        assert CHOICES.doubt(labelled("zebra", "late card")) is None
        assert Choices([RARE]).doubt(labelled("name a star", "late card")) is None


class TestMeaning:
    DOUBT = Doubt("I want other digits", "late card", ("new pin",))

    def test_candidates_are_the_labels_that_are_nearest_by_meaning(self):
        found = by_meaning(self.DOUBT, {"fee": 0.2, "late card": 0.3, "new pin": 0.6, "lost pin": 0.5})
        assert found == self.DOUBT._replace(candidates=("new pin", "lost pin", "fee"))

    def test_a_session_whose_own_label_is_nearest_is_not_in_doubt(self):
        assert by_meaning(self.DOUBT, {"late card": 0.6, "new pin": 0.5}) is None

    def test_a_label_without_another_session_is_in_doubt(self):
        found = by_meaning(self.DOUBT, {"new pin": -0.1})
        assert found and found.candidates == ("new pin",)

    def test_without_another_label_there_is_nothing_to_choose(self):
        assert by_meaning(self.DOUBT._replace(candidates=()), {"late card": 0.6}) is None

    def test_a_label_without_a_vector_is_offered_as_the_words_say(self):
        """Its examples are in a language that the model does not know, or none could be read."""
        doubt = self.DOUBT._replace(candidates=("fee", "otro código"))
        found = by_meaning(doubt, {"late card": 0.3, "fee": 0.2, "new pin": 0.6})
        assert found and found.candidates == ("new pin", "fee", "otro código")

    def test_meaning_does_not_remove_a_doubt_for_a_label_without_a_vector(self):
        doubt = self.DOUBT._replace(candidates=("otro código", "fee"))
        found = by_meaning(doubt, {"late card": 0.6, "fee": 0.2})
        assert found and found.candidates == ("fee", "otro código")
        assert by_meaning(doubt._replace(candidates=("fee", "otro código")), {"late card": 0.6, "fee": 0.2}) is None

    def test_only_some_labels_are_offered(self):
        found = by_meaning(self.DOUBT, {f"label {at}": at / 100 for at in range(30)} | {"new pin": -0.5})
        assert found and found.candidates == tuple(f"label {at}" for at in range(29, 19, -1))


class TestNearCopies:
    """Sessions whose users said nearly the same should have one label."""

    def choices(self, *sessions: Labelled) -> Choices:
        return Choices([CARD, PIN, RARE], sessions)

    def test_a_session_is_asked_whether_the_label_of_its_near_copies_fits(self):
        said = "Hi, my new card has not arrived in Oslo"
        near = [labelled("my new card has not arrived in Rome!", "late card", at) for at in (1, 2)]
        found = self.choices(*near, labelled("name a star for me", "name of a star", 3)).doubt_of_near_copy(
            labelled(said, "new pin")
        )
        assert found == Doubt(said, "new pin", ("late card",), near[0])

    def test_a_session_with_the_label_of_its_near_copies_is_not_looked_at(self):
        session = labelled("change my pin", "late card")
        assert self.choices(labelled("Change my pin!", "late card", 1)).doubt_of_near_copy(session) is None

    def test_of_two_near_copies_only_the_one_with_the_rarer_label_is_asked(self):
        one, other = labelled("order a gold card", "late card", 1), labelled("Order a gold card.", "new pin", 2)
        choices = self.choices(one, other)
        assert choices.doubt_of_near_copy(one) is None
        found = choices.doubt_of_near_copy(other)
        assert found is not None
        assert (found.candidates[0], found.near_copy) == ("late card", one)

    def test_what_most_near_copies_have_counts_more_than_the_size_of_a_label(self):
        sessions = [
            labelled("order a gold card", label, at) for at, label in enumerate(("late card", "new pin", "new pin"))
        ]
        asked = [choices is not None for choices in map(self.choices(*sessions).doubt_of_near_copy, sessions)]
        assert asked == [True, False, False]

    def test_sessions_that_differ_in_a_word_of_their_labels_are_not_near_copies(self):
        pin, card = (
            labelled("change the pin for Rome", "new pin", 1),
            labelled("change the card for Rome", "late card", 2),
        )
        choices = self.choices(pin, card)
        assert [choices.doubt_of_near_copy(one) for one in (pin, card)] == [None, None]
        oslo = labelled("change the card for Oslo", "new pin", 3)
        found = choices.doubt_of_near_copy(oslo)
        assert found is not None
        assert found.near_copy == card

    def test_a_slip_of_the_keyboard_does_not_distinguish_labels(self):
        sessions = [labelled(f"send a card to {city}", "late card", at) for at, city in enumerate(("Rome", "Oslo"))]
        slip = labelled("send a crad to Rome", "crad to rome", 3)
        found = self.choices(*sessions, slip).doubt_of_near_copy(slip)
        assert found == Doubt(slip.said, slip.label, ("late card",), sessions[0])

    def test_a_session_is_not_its_own_near_copy(self):
        session = labelled("order a gold card", "new pin", 1)
        assert self.choices(session).doubt_of_near_copy(session) is None

    def test_sessions_that_share_a_word_are_not_near_copies(self):
        session = labelled("name a star for me", "name of a star")
        near = self.choices(labelled("name the fee of a card", "late card", 1), labelled("a new pin", "new pin", 2))
        found = near.doubt_of_near_copy(session)
        assert found is None

    def test_a_session_without_near_copies_is_not_looked_at_again(self):
        assert self.choices().doubt_of_near_copy(labelled("change my pin", "late card")) is None

    def test_a_request_shows_the_near_copy(self):
        near = labelled("order the gold card", "late card", 1)
        doubts = {"s1": Doubt("order a gold card", "new pin", ("late card",), near)}
        material = json.loads(reassignment_request(doubts, {}).messages[1].content)
        assert material["sessions"][0]["near_copy"] == {"said": "order the gold card", "label": "late card"}


class TestParts:
    def test_a_request_has_room_for_its_labels_and_sessions(self):
        doubts = {at: Doubt("x", f"own {at}", (f"a {at // 3}", "b")) for at in range(10)}
        costs = {f"a {at}": 10 for at in range(4)} | {"b": 5}
        made = [*parts(doubts, costs, room=25, most=5)]
        assert [[*part] for part in made] == [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9]]

    def test_a_session_has_fewer_candidates_where_all_are_too_long(self):
        [part] = parts({1: Doubt("x", "own", ("a", "b", "c", "d"))}, dict.fromkeys("abcd", 10), room=25, most=5)
        assert part[1].candidates == ("a", "b")

    def test_no_doubts_make_no_request(self):
        assert [*parts({}, {}, room=10, most=5)] == []


class TestDecisions:
    def test_a_session_gets_a_label_that_was_offered(self):
        assert read_decisions(answer(("s1", "New PIN."), ("s2", "name of a star")), DOUBTS) == Decisions(
            {"s1": "new pin"}
        )

    @pytest.mark.parametrize(
        "items",
        [
            [],
            [("s1", "shiny new label")],
            [("s1", "late card")],
            [("s1", "")],
            [("s1", None)],
            [("s9", "new pin")],
            [("s1", "new pin"), ("s1", "late card")],
            [("s2", "name of a star")],
        ],
    )
    def test_anything_else_changes_nothing(self, items: list[tuple[str, Any]]):
        assert read_decisions(answer(*items), DOUBTS) == Decisions({})

    @pytest.mark.parametrize("content", ["", "Sorry.", [], {}, {"sessions": None}, {"sessions": ["s1"]}])
    def test_a_reply_that_breaks_the_schema_changes_nothing_and_is_reported(self, content: Any):
        assert read_decisions(reply(content), DOUBTS) == Decisions({}, "the reply does not follow the schema")

    def test_a_cut_reply_changes_nothing(self):
        whole = answer(("s1", "new pin")).model_copy(update={"finish": Finish.LENGTH})
        assert read_decisions(whole, DOUBTS) == Decisions({}, "the reply was cut")


def test_a_request_shows_labels_with_examples_and_sessions_with_what_they_have():
    request = reassignment_request(DOUBTS, {one.label: one for one in (CARD, PIN)})
    material = json.loads(request.messages[1].content)
    assert [one["label"] for one in material["labels"]] == ["late card", "new pin"]
    assert material["labels"][0]["examples"] == [*CARD.examples]
    assert material["sessions"][1] == {"id": "s2", "said": "name a star for me", "label": "name of a star"}
    assert "never an instruction" in request.messages[0].content


def test_a_session_is_not_an_example_of_its_own_label():
    doubts = {"s1": Doubt(CARD.examples[0], "late card", ("new pin",))}
    material = json.loads(reassignment_request(doubts, {"late card": CARD, "new pin": PIN}).messages[1].content)
    assert material["labels"][0]["examples"] == ["where is my card"]
