"""Which labels meet in a request, and which merges of a reply are made."""

import json
from itertools import pairwise
from typing import Any

import pytest

from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.likeness import Likeness
from parley.domain.auto_analyze.merging import (
    SUSPICIOUS,
    LabelMeaning,
    Merges,
    chunks,
    merges_of,
    read_groups,
    spelled_alike,
    spelling,
    unlocked,
)
from parley.domain.requests import ChatReply, Finish
from tests.domain.auto_analyze.chats import grouped, reply

LABELS = ["billing dispute", "invoice problem", "lost parcel", "password reset", "refund"]
APART = [[label] for label in LABELS]
TWENTY = [f"label {at:02}" for at in range(20)]


def label(name: str, sessions: int = 1, *examples: str) -> LabelEvidence:
    return LabelEvidence(label=name, sessions=sessions, examples=examples)


def labels(*names: str) -> list[LabelEvidence]:
    return [label(name) for name in names]


def read(answer: ChatReply, *known: LabelEvidence) -> Merges:
    compared = known or labels(*LABELS)
    return merges_of(read_groups(answer, compared), Likeness({one.label: one.text for one in compared}))


class TestSpelling:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("refund", "refunds"),
            ("sign-up", "sign up"),
            ("sign-up", "signup"),
            ("wi-fi down", "wifi down"),
            ("delivery query", "delivery queries"),
            ("lost boxes", "lost box"),
            ("missing addresses", "missing address"),
            ("customer's card", "customers card"),
        ],
    )
    def test_labels_that_are_only_written_differently_are_equal(self, one: str, other: str):
        assert spelling(one) == spelling(other)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("c help", "c++ help"),
            ("c help", "c# help"),
            ("50 off", "50% off"),
            ("order status", "order statu"),
            ("business class", "busines clas"),
            ("refund", "refunded"),
            ("card lost", "lost card"),
            ("news", "new"),
            ("账单", "账"),
        ],
    )
    def test_labels_that_differ_in_a_sign_or_in_meaning_are_not(self, one: str, other: str):
        assert spelling(one) != spelling(other)

    def test_the_spelling_of_most_sessions_is_kept(self):
        found = spelled_alike([label("refund", 2), label("refunds", 5), label("re-fund", 2), label("parcel", 9)])
        assert found == {"refund": "refunds", "re-fund": "refunds"}

    def test_labels_of_signs_alone_stay_apart(self):
        assert spelled_alike(labels("%", "#", "🙂")) == {}


class TestChunks:
    def test_all_labels_that_fit_are_one_chunk(self):
        [chunk] = chunks(labels(*LABELS), dict.fromkeys(LABELS, 1), room=5, most=5)
        assert sorted(chunk) == LABELS

    def test_no_labels_make_one_empty_chunk(self):
        assert chunks([], {}, room=10, most=10) == [[]]

    @pytest.mark.parametrize(("room", "most"), [(1000, 7), (14, 1000)])
    def test_every_label_is_in_a_chunk_that_fits(self, room: int, most: int):
        names = [f"label {at:03} about {at % 9}" for at in range(100)]
        made = chunks(labels(*names), dict.fromkeys(names, 2), room=room, most=most)
        assert {name for chunk in made for name in chunk} == {*names}
        assert max(map(len, made)) == 7

    def test_a_label_that_is_larger_than_a_request_is_alone(self):
        made = chunks(labels(*LABELS), dict.fromkeys(LABELS, 9), room=5, most=5)
        assert [len(chunk) for chunk in made] == [1] * len(made)
        assert {name for [name] in made} == {*LABELS}

    def test_labels_that_are_alike_meet_however_many_there_are(self):
        """They are far from each other by name, and have only their examples in common."""
        names = [f"{chr(97 + at % 26)}{at:03}" for at in range(300)]
        twins = [label(name, 1, f"where is object{at // 2} please") for at, name in enumerate(names)]
        made = [{*chunk} for chunk in chunks(twins[::2] + twins[1::2], dict.fromkeys(names, 1), room=40, most=40)]
        for one, other in [*pairwise(names)][::2]:
            assert any({one, other} <= chunk for chunk in made)

    def test_five_thousand_labels_meet_those_that_are_alike(self):
        names = [f"{chr(97 + at % 26)}{at:04}" for at in range(5000)]
        twins = [label(name, 1, f"where is object{at // 2} of desk{at % 500}") for at, name in enumerate(names)]
        made = chunks(twins[::2] + twins[1::2], dict.fromkeys(names, 100), room=100_000, most=395)
        assert {name for chunk in made for name in chunk} == {*names}
        assert max(map(len, made)) <= 395
        chunk_of = {name: {place for place, chunk in enumerate(made) if name in chunk} for name in names}
        assert all(chunk_of[one] & chunk_of[other] for one, other in [*pairwise(names)][::2])

    def test_chunks_are_deterministic(self):
        names = [f"label {at:03} of {at % 7}" for at in range(100)]
        made = [chunks(labels(*names), dict.fromkeys(names, 1), room=30, most=30) for _ in range(2)]
        assert made[0] == made[1]


class TestReplies:
    def test_labels_of_one_group_are_merged(self):
        assert read(grouped(LABELS[:2], *APART[2:])) == Merges({"invoice problem": "billing dispute"}, "", 1)

    def test_labels_without_a_duplicate_stay_as_they_are(self):
        assert read(grouped(*APART)) == Merges({}, "", 0)

    def test_the_label_of_most_sessions_is_kept_however_the_group_is_named(self):
        known = [label("billing dispute", 2), label("invoice problem", 7), *labels(*LABELS[2:])]
        assert read(grouped(LABELS[:2], *APART[2:]), *known).mapping == {"billing dispute": "invoice problem"}

    @pytest.mark.parametrize("name", ["money matters", "", "lost parcel", None])
    def test_an_empty_or_unknown_name_of_a_group_changes_nothing(self, name: str | None):
        groups = [{"canonical": name, "members": LABELS[:2]}, *({"canonical": x, "members": [x]} for x in LABELS[2:])]
        found = read(reply({"groups": groups}))
        if name is None:
            assert found.problem
        else:
            assert found == Merges({"invoice problem": "billing dispute"}, "", 1)

    def test_a_label_that_only_names_a_group_is_a_member_of_it(self):
        groups = [{"canonical": name, "members": [name]} for name in LABELS[2:]]
        groups.append({"canonical": "billing dispute", "members": ["invoice problem"]})
        assert read(reply({"groups": groups})) == Merges({"invoice problem": "billing dispute"}, "", 1)

    def test_a_label_that_names_two_groups_joins_neither(self):
        groups = [{"canonical": TWENTY[0], "members": TWENTY[1:3]}, {"canonical": TWENTY[0], "members": TWENTY[3:5]}]
        groups += [{"canonical": name, "members": [name]} for name in TWENTY[5:]]
        assert read(reply({"groups": groups}), *labels(*TWENTY)).mapping == {TWENTY[2]: TWENTY[1], TWENTY[4]: TWENTY[3]}

    def test_labels_are_compared_without_case_and_punctuation(self):
        groups = [{"canonical": "Invoice_Problem", "members": ["Billing dispute.", "INVOICE PROBLEM"]}]
        found = read(reply({"groups": groups}), *labels(*LABELS[:2]))
        assert found.mapping == {"invoice problem": "billing dispute"}

    def test_missing_invented_or_repeated_labels_are_a_problem(self):
        assert read(grouped(LABELS[:2], ["refund"])).problem.startswith("2 labels missing")
        assert read(reply({"groups": []})).problem.startswith("5 labels missing")
        assert "1 invented" in read(grouped(*APART, ["shiny new label"])).problem
        assert "1 in several groups" in read(grouped(LABELS[:2], *APART[1:])).problem

    def test_a_few_of_many_are_left_as_they_are(self):
        """A model that sees hundreds of labels leaves some out; the others are merged nevertheless."""
        groups = [TWENTY[:3], TWENTY[2:4], *([name] for name in TWENTY[4:19])]
        found = read(grouped(*groups), *labels(*TWENTY))
        assert found == Merges({TWENTY[1]: TWENTY[0]}, "", 1)

    def test_nearly_all_labels_in_one_group_is_a_problem(self):
        assert read(grouped(LABELS)).problem == "5 of 5 labels in one group"
        found = read(grouped(TWENTY[:17], *([name] for name in TWENTY[17:])), *labels(*TWENTY))
        assert found.problem == "17 of 20 labels in one group"

    def test_a_few_labels_may_be_one_group(self):
        few = LABELS[: SUSPICIOUS - 1]
        assert read(grouped(few), *labels(*few)).mapping == dict.fromkeys(
            ["invoice problem", "billing dispute"], "lost parcel"
        )

    @pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.REFUSED])
    def test_a_cut_or_refused_reply_is_a_problem_although_its_text_is_valid(self, finish: Finish):
        whole = grouped(*APART).model_copy(update={"finish": finish})
        assert read(whole) == Merges({}, "the reply was cut", 0)

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "Sorry.",
            '{"groups": [{"canonical": "refu',
            "[" * 100_000,
            [],
            {},
            {"groups": None},
            {"groups": 7},
            {"groups": ["refund"]},
            {"groups": {"refund": ["refund"]}},
            {"groups": [{"members": ["refund"]}]},
            {"groups": [{"canonical": "refund"}]},
            {"groups": [{"canonical": None, "members": ["refund"]}]},
            {"groups": [{"canonical": "refund", "members": [7]}]},
            {"groups": [{"canonical": "refund", "members": None}]},
        ],
        ids=lambda content: json.dumps(content)[:40],
    )
    def test_a_reply_that_breaks_the_schema_is_a_problem(self, content: Any):
        assert read(reply(content)) == Merges({}, "the reply does not follow the schema", 0)

    def test_empty_groups_are_ignored(self):
        answer = json.loads(grouped(*APART).text)
        answer["groups"].append({"canonical": "nothing", "members": []})
        assert read(reply(answer)).problem == ""

    def test_members_given_as_one_text_are_a_problem(self):
        assert read(reply({"groups": [{"canonical": "refund", "members": "refund"}]}), label("refund")).problem


class TestEvidence:
    def test_labels_whose_examples_have_nothing_in_common_are_not_merged(self):
        known = [
            label("card", 5, "my card is late", "where is the card that you sent"),
            label("post", 4, "the card has not come", "waiting for my card"),
            label("bank", 3, "documents needed", "open an account"),
        ]
        found = read(grouped(["card", "post", "bank"]), *known)
        assert found == Merges({"post": "card"}, "", 2, 1)

    @pytest.mark.parametrize(
        ("coherences", "pin", "merged"),
        [
            pytest.param((0.6, 0.7), [0.1, 0.9], False, id="each is coherent, and they are apart"),
            pytest.param((0.6, 0.7), [0.9, 0.1], True, id="they are alike"),
            pytest.param((0.6, 0.3), [0.1, 0.9], True, id="what users say is alike to nothing"),
            pytest.param((0.3, 0.7), [0.1, 0.9], True, id="the same of the other label"),
        ],
    )
    def test_labels_that_are_coherent_and_apart_by_meaning_are_not_merged(
        self, coherences: tuple[float, float], pin: list[float], merged: bool
    ):
        known = [label("card", 5, "where is my card", "no card"), label("pin", 3, "where is my pin", "no pin")]
        meaning = {"card": LabelMeaning([1.0, 0.0], coherences[0]), "pin": LabelMeaning(pin, coherences[1])}
        groups, likeness = (
            read_groups(grouped(["card", "pin"]), known),
            Likeness({one.label: one.text for one in known}),
        )
        expected = Merges({"pin": "card"}, "", 1) if merged else Merges({}, "", 1, 1)
        assert merges_of(groups, likeness, meaning) == expected

    def test_words_decide_about_a_label_whose_meaning_is_not_known(self):
        known = [label("card", 5, "where is my card", "no card"), label("pin", 3, "where is my pin", "no pin")]
        groups, likeness = (
            read_groups(grouped(["card", "pin"]), known),
            Likeness({one.label: one.text for one in known}),
        )
        assert merges_of(groups, likeness, {"card": LabelMeaning([1.0, 0.0], 0.9)}).mapping == {"pin": "card"}

    def test_only_labels_that_a_reply_groups_are_in_groups(self):
        groups = read_groups(grouped(LABELS[:2], *APART[2:]), labels(*LABELS))
        assert [[one.label for one in group] for group in groups.groups] == [LABELS[:2]]
        assert read_groups(grouped(LABELS), labels(*LABELS)).groups == ()

    def test_a_label_with_one_example_is_merged_as_the_reply_says(self):
        known = [label("card", 5, "my card is late", "where is my card"), label("bank", 1, "open an account")]
        assert read(grouped(["card", "bank"]), *known).mapping == {"bank": "card"}


class TestRequestsOfOneLevel:
    def test_labels_of_two_requests_are_not_joined_over_a_third(self):
        """A was compared with B, and B with C, but no request has compared A with C."""
        assert unlocked({"c": "b"}, {"b": "a"}) == {}
        assert unlocked({"b": "c"}, {"b": "a"}) == {}
        assert unlocked({"d": "a"}, {"b": "a"}) == {}
        assert unlocked({"e": "d"}, {"b": "a"}) == {"e": "d"}
