import json
import sys
import unicodedata
from itertools import chain
from typing import Any

import pytest

from parley.domain.auto_analyze.labels import SUSPICIOUS, chunks, composed, duplicates, normalized, read_groups
from parley.domain.requests import Finish
from tests.domain.auto_analyze.chats import grouped, reply

LABELS = ["billing dispute", "invoice problem", "lost parcel", "password reset", "refund"]
APART = [[label] for label in LABELS]


class TestSpelling:
    @pytest.mark.parametrize(
        ("label", "stored"),
        [
            ("Billing_Dispute!", "billing dispute"),
            ("  billing \t\n dispute ", "billing dispute"),
            ("'billing dispute'", "billing dispute"),
            ("“Billing” — dispute…", "billing dispute"),
            ("- billing dispute -", "billing dispute"),
            ("sign-up / log-in", "sign-up / log-in"),
            ("terms & conditions", "terms & conditions"),
            ("can’t log in", "can't log in"),
            ("caf\u0065\u0301", "caf\u00e9"),
            ("ＢＩＬＬＩＮＧ dispute", "billing dispute"),
            ("हिन्दी बिल", "हिन्दी बिल"),
            ("kündigung: straße", "kündigung straße"),
            ("账单争议", "账单争议"),
            ("2fa code", "2fa code"),
            ("refund\u0000\ud800", "refund"),
            ("<b>refund</b>", "b refund /b"),
            ("🙂", "🙂"),
            ("C++ Help", "c++ help"),
            ("C# help", "c# help"),
            ("C help", "c help"),
            ("50% off", "50% off"),
            ("50 off", "50 off"),
            ("$ refund", "$ refund"),
            ("€5 credit", "€5 credit"),
            (".NET setup", ".net setup"),
            ("net setup.", "net setup"),
            ("Node.js setup...", "node.js setup"),
            ("version 2.0", "version 2.0"),
            ("\u2764\ufe0f thanks", "\u2764 thanks"),
            ("\U0001f44d\U0001f3fd", "\U0001f44d\U0001f3fd"),
            ("wi\u2011fi down", "wi-fi down"),
            ("wi\u2010fi down", "wi-fi down"),
            ("re\u00adfund", "refund"),
            ("\u0130ade talebi", "iade talebi"),
            ("**refund**", "refund"),
            ("`refund`", "refund"),
            ("...", ""),
            ("-/&'", ""),
            ("", ""),
        ],
        ids=ascii,
    )
    def test_spellings_of_a_label_are_normalized_to_one(self, label: str, stored: str):
        assert normalized(label) == stored

    def test_a_normalized_label_stays_the_same(self):
        """Otherwise a reply of conflict resolution could not be matched with it."""
        assigned = (chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) != "Cn")
        for character in assigned:
            once = normalized(f"a{character}b")
            assert normalized(once) == once, ascii(character)


CHUNK = 150


class TestChunks:
    @pytest.mark.parametrize("level", [0, 1, 2, 3])
    @pytest.mark.parametrize("count", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 1000])
    def test_every_label_is_in_one_chunk(self, count: int, level: int):
        labels = [f"label {at:04}" for at in range(count)]
        made = chunks(labels, level, CHUNK)
        assert sorted(chain.from_iterable(made)) == labels
        assert max(map(len, made)) <= CHUNK
        assert len(made) == -(-count // CHUNK)

    @pytest.mark.parametrize("level", [0, 1])
    def test_no_labels_make_one_empty_chunk(self, level: int):
        assert chunks([], level, CHUNK) == [[]]

    def test_most_pairs_of_labels_in_a_chunk_are_new_on_the_next_level(self):
        labels = [f"label {at:04}" for at in range(1000)]
        even, odd = (
            {frozenset((a, b)) for chunk in chunks(labels, level, CHUNK) for a in chunk for b in chunk if a < b}
            for level in (0, 1)
        )
        assert len(odd - even) > 0.8 * len(odd)

    def test_chunks_are_deterministic(self):
        labels = [f"label {at:04}" for at in range(400)]
        assert chunks(labels, 1, CHUNK) == chunks(labels, 1, CHUNK)

    def test_a_smaller_window_makes_smaller_chunks(self):
        labels = [f"label {at:04}" for at in range(200)]
        assert [len(chunk) for chunk in chunks(labels, 0, 90)] == [90, 90, 20]


def test_duplicates_are_labels_with_the_name_of_another():
    assert duplicates({"refund": "refund", "refunds": "refund", "money back": "refund"}) == 2


class TestGroups:
    def test_every_label_is_mapped_once(self):
        mapping, problem = read_groups(grouped(LABELS[:2], *APART[2:]), LABELS)
        assert problem == ""
        assert mapping == dict(zip(LABELS, LABELS, strict=True)) | {"invoice problem": "billing dispute"}

    def test_labels_without_a_duplicate_are_mapped_to_themselves(self):
        mapping, problem = read_groups(grouped(*APART), LABELS)
        assert (mapping, problem) == (dict(zip(LABELS, LABELS, strict=True)), "")

    @pytest.mark.parametrize("name", ["money matters", "", "lost parcel"])
    def test_a_group_is_named_by_one_of_its_members(self, name: str):
        groups = [{"canonical": name, "members": LABELS[:2]}, *({"canonical": x, "members": [x]} for x in LABELS[2:])]
        mapping, problem = read_groups(reply({"groups": groups}), LABELS)
        assert problem == ""
        assert mapping["billing dispute"] == mapping["invoice problem"] == "billing dispute"
        assert mapping["lost parcel"] == "lost parcel"

    def test_labels_are_compared_without_case_and_punctuation(self):
        groups = [{"canonical": "Invoice_Problem", "members": ["Billing dispute.", "INVOICE PROBLEM"]}]
        mapping, problem = read_groups(reply({"groups": groups}), LABELS[:2])
        assert (mapping, problem) == (dict.fromkeys(LABELS[:2], "invoice problem"), "")

    def test_missing_labels_are_a_problem(self):
        assert read_groups(grouped(LABELS[:2], ["refund"]), LABELS)[1].startswith("2 labels missing")
        assert read_groups(reply({"groups": []}), LABELS)[1].startswith("5 labels missing")

    def test_invented_labels_are_a_problem(self):
        assert "1 invented" in read_groups(grouped(*APART, ["shiny new label"]), LABELS)[1]
        assert "1 invented" in read_groups(grouped(["refund", "shiny new label"], *APART[:-1]), LABELS)[1]

    def test_a_label_in_two_groups_is_a_problem(self):
        assert "1 in several groups" in read_groups(grouped(LABELS[:2], *APART[1:]), LABELS)[1]
        assert "1 in several groups" in read_groups(grouped(["refund", "refund"], *APART[:-1]), LABELS)[1]

    def test_one_group_of_all_labels_is_a_problem(self):
        assert read_groups(grouped(LABELS), LABELS)[1] == f"all {len(LABELS)} labels in one group"

    def test_a_few_labels_may_be_one_group(self):
        few = LABELS[: SUSPICIOUS - 1]
        assert read_groups(grouped(few), few) == (dict.fromkeys(few, few[0]), "")

    @pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.REFUSED])
    def test_a_cut_or_refused_reply_is_a_problem_although_its_text_is_valid(self, finish: Finish):
        whole = grouped(*APART).model_copy(update={"finish": finish})
        assert read_groups(whole, LABELS) == ({}, "the reply was cut")

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
        assert read_groups(reply(content), LABELS) == ({}, "the reply does not follow the schema")

    def test_empty_groups_are_ignored(self):
        answer = json.loads(grouped(*APART).text)
        answer["groups"].append({"canonical": "nothing", "members": []})
        assert read_groups(reply(answer), LABELS)[1] == ""

    def test_members_given_as_one_text_are_a_problem(self):
        assert read_groups(reply({"groups": [{"canonical": "refund", "members": "refund"}]}), ["refund"])[1]


class TestComposition:
    def test_a_label_is_mapped_by_both_levels(self):
        first = {"a": "b", "b": "b", "c": "c", "d": "d"}
        assert composed(first, {"b": "c", "d": "e"}) == {"a": "c", "b": "c", "c": "c", "d": "e"}

    def test_an_empty_level_changes_nothing(self):
        assert composed({"a": "b"}, {}) == {"a": "b"}

    def test_a_level_is_applied_once(self):
        """Two labels that are mapped to each other on one level are exchanged once."""
        assert composed({"a": "a", "b": "b"}, {"a": "b", "b": "a"}) == {"a": "b", "b": "a"}
