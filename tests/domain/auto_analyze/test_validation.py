import json
from typing import Any

import pytest

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.validation import (
    FALLBACK_INTENT,
    MAX_LABEL_CHARACTERS,
    MAX_SUMMARY_CHARACTERS,
    NO_TEXT_INTENT,
    SessionLabels,
    Verdict,
    fallback_labels,
    judge,
    no_text_labels,
)
from parley.domain.chat import Containment
from parley.domain.model import UNSTORABLE
from parley.domain.requests import Finish
from tests.domain.auto_analyze.chats import KINDS, reply

ASKED = {"s1": Containment.SELF_SERVICE, "s2": Containment.AGENT, "s3": Containment.DROP_OFF}


def item(name: Any, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "intent": "billing dispute",
        "transfer_reason": "refund approval",
        "drop_off_location": "identity check",
        "summary": "The invoice was wrong.",
        **changes,
    }


def without(name: str, field: str) -> dict[str, Any]:
    return {key: value for key, value in item(name).items() if key != field}


def judged(*items: Any, finish: Finish = Finish.STOP, asked: dict[str, Containment] = ASKED) -> Verdict:
    return judge(reply({"sessions": list(items)}, finish), asked)


def usable(**changes: Any) -> bool:
    return "s1" in judged(item("s1", **changes), asked={"s1": Containment.SELF_SERVICE}).labels


class TestReply:
    def test_a_complete_reply_is_usable(self):
        verdict = judged(item("s3"), item("s1"), item("s2"))
        assert (set(verdict.labels), verdict.missing, verdict.invented) == ({"s1", "s2", "s3"}, (), 0)
        assert not any(labels.fallback or labels.by_rule for labels in verdict.labels.values())

    def test_missing_ids_are_in_the_order_of_the_request(self):
        verdict = judged(item("s2"))
        assert (list(verdict.labels), verdict.missing, verdict.invented) == (["s2"], ("s1", "s3"), 0)

    def test_a_repeated_session_counts_as_missing(self):
        verdict = judged(item("s1"), item("s2"), item("s1", intent="lost parcel"), item("s3"))
        assert (set(verdict.labels), verdict.missing, verdict.invented) == ({"s2", "s3"}, ("s1",), 0)

    def test_a_session_repeated_with_equal_labels_counts_as_missing(self):
        assert judged(item("s1"), item("s1")).missing == ("s1", "s2", "s3")

    @pytest.mark.parametrize("name", ["s4", "S1", " s1", "s1 ", "", None, 1, True, ["s1"], {"id": "s1"}])
    def test_invented_ids_are_counted_and_dropped(self, name: Any):
        verdict = judged(item("s1"), item("s2"), item("s3"), item(name))
        assert (set(verdict.labels), verdict.missing, verdict.invented) == (set(ASKED), (), 1)

    def test_every_invented_id_counts(self):
        assert judged(item("x"), item("x"), item("y"), {}).invented == 4

    def test_a_session_under_another_id_is_missing_and_invented(self):
        verdict = judged(item("s1"), item("s2"), item("s33"))
        assert (verdict.missing, verdict.invented) == (("s3",), 1)

    @pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.REFUSED])
    def test_a_cut_or_refused_reply_has_no_labels(self, finish: Finish):
        verdict = judged(item("s1"), item("s2"), item("s3"), finish=finish)
        assert (verdict.labels, verdict.missing, verdict.invented) == ({}, ("s1", "s2", "s3"), 0)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "I cannot help with that.",
            '{"sessions": [{"id": "s1", "intent": "bil',
            '```json\n{"sessions": []}\n```',
            "[]",
            "null",
            "7",
            '"sessions"',
            "{}",
            '{"sessions": null}',
            '{"sessions": {"s1": "billing"}}',
            '{"sessions": "s1"}',
            '{"sessions": ["s1", "s2", "s3"]}',
            '{"sessions": [[]]}',
            '{"sessions": []}',
            '{"Sessions": [{"id": "s1", "intent": "x", "summary": "y"}]}',
            "[" * 100_000,
            '{"sessions": ' + "[" * 100_000 + "]" * 100_000 + "}",
            '{"sessions": [{"id": "s1", "intent": ' + '{"a":' * 50_000,
            '{"sessions": [{"id": ' + "9" * 10_000 + "}]}",
            "\ufeff{}",
        ],
        ids=lambda text: ascii(text[:40]),
    )
    def test_a_reply_that_breaks_the_schema_has_no_labels(self, text: str):
        verdict = judge(reply(text), ASKED)
        assert (verdict.labels, verdict.missing, verdict.invented) == ({}, ("s1", "s2", "s3"), 0)

    def test_a_reply_to_an_empty_request_is_all_invented(self):
        assert judged(item("s1"), asked={}) == Verdict(labels={}, missing=(), invented=1)


class TestFields:
    @pytest.mark.parametrize(
        ("containment", "reason", "location"),
        [
            (Containment.SELF_SERVICE, None, None),
            (Containment.AGENT, "refund approval", None),
            (Containment.DROP_OFF, None, "identity check"),
        ],
    )
    def test_only_fields_of_the_containment_are_stored(
        self, containment: Containment, reason: str | None, location: str | None
    ):
        labels = judged(item("s1"), asked={"s1": containment}).labels["s1"]
        assert (labels.transfer_reason, labels.drop_off_location) == (reason, location)

    @pytest.mark.parametrize(
        ("containment", "field"),
        [
            (Containment.AGENT, "transfer_reason"),
            (Containment.DROP_OFF, "drop_off_location"),
            *((kind, field) for kind in KINDS for field in ("intent", "summary")),
        ],
    )
    def test_required_fields_of_the_containment_must_be_present(self, containment: Containment, field: str):
        asked, no_words = {"s1": containment}, () if field == "summary" else ("...", "\u0000", "-", "''")
        assert judged(without("s1", field), asked=asked).missing == ("s1",)
        for blank in (None, "", " \n ", *no_words):
            assert judged(item("s1", **{field: blank}), asked=asked).missing == ("s1",), ascii(blank)

    @pytest.mark.parametrize("value", [7, True, ["billing"], {"label": "billing"}])
    @pytest.mark.parametrize("field", ["intent", "transfer_reason", "summary"])
    def test_a_field_of_another_type_is_invalid(self, field: str, value: Any):
        assert judged(item("s2", **{field: value})).missing == ("s1", "s2", "s3")

    def test_an_invalid_session_does_not_affect_the_others(self):
        verdict = judged(item("s1", intent=7), item("s2"), item("s3"))
        assert (set(verdict.labels), verdict.missing) == ({"s2", "s3"}, ("s1",))

    def test_fields_that_the_containment_does_not_need_may_be_invalid(self):
        assert usable(transfer_reason=7, drop_off_location="x" * 1000)

    @pytest.mark.parametrize("intent", ["Unclassified!", "no user message", FALLBACK_INTENT, NO_TEXT_INTENT])
    def test_reserved_labels_are_invalid_in_a_reply(self, intent: str):
        assert not usable(intent=intent)

    def test_additional_fields_are_ignored(self):
        assert usable(confidence=0.3)

    def test_labels_are_short(self):
        assert usable(intent="x" * MAX_LABEL_CHARACTERS)
        assert not usable(intent="x" * (MAX_LABEL_CHARACTERS + 1))
        assert judged(item("s2", transfer_reason="x" * 81)).missing == ("s1", "s2", "s3")

    def test_summaries_are_short(self):
        assert usable(summary="x" * MAX_SUMMARY_CHARACTERS)
        assert not usable(summary="x" * (MAX_SUMMARY_CHARACTERS + 1))

    @pytest.mark.parametrize(
        "intent",
        ["billing dispute", "Billing_Dispute!", "  BILLING   dispute. ", '"billing dispute"', "billing\ndispute"],
    )
    def test_equal_labels_have_one_spelling(self, intent: str):
        assert judged(item("s1", intent=intent)).labels["s1"].intent == "billing dispute"

    def test_characters_that_cannot_be_stored_are_replaced(self):
        text = '"a\\u0000b \\ud800c \\udfff\\ud83d\\ude42"'
        body = f'{{"sessions": [{{"id": "s2", "intent": {text}, "transfer_reason": {text}, "summary": {text}}}]}}'
        labels = judge(reply(body), ASKED).labels["s2"]
        assert labels.summary == "a\ufffdb \ufffdc \ufffd🙂"
        assert labels.intent == labels.transfer_reason == "a b c 🙂"
        assert not UNSTORABLE.search(json.dumps(labels.model_dump(), ensure_ascii=False))


@pytest.mark.parametrize("containment", Containment)
def test_fallback_labels_are_complete_and_marked(containment: Containment):
    fallback, silent = fallback_labels(containment), no_text_labels(containment)
    assert (fallback.intent, fallback.fallback, fallback.by_rule) == (FALLBACK_INTENT, True, False)
    assert (silent.intent, silent.fallback, silent.by_rule) == (NO_TEXT_INTENT, False, True)
    for labels in (fallback, silent):
        assert bool(labels.label(LabelKind.TRANSFER_REASON)) == (containment is Containment.AGENT)
        assert bool(labels.label(LabelKind.DROP_OFF_LOCATION)) == (containment is Containment.DROP_OFF)
        assert labels.summary


def test_fallback_labels_are_normalized():
    """A resolution compares them letter for letter."""
    for labels in (fallback_labels(Containment.AGENT), no_text_labels(Containment.AGENT)):
        assert SessionLabels(**labels.model_dump()) == labels
