"""One reader of the JSON in replies, for every job."""

import json
from typing import Any

import pytest

from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.likeness import Likeness
from parley.domain.auto_analyze.merging import merges_of, read_groups
from parley.domain.auto_analyze.validation import judge
from parley.domain.chat import Containment
from parley.domain.coaching.replies import read_reply
from parley.domain.generate.quality import read_grade
from parley.domain.generate.replies import parsed
from parley.domain.reply_json import MAX_DEPTH, read_reply_json
from parley.domain.requests import ChatReply, Finish, Usage
from tests.domain.coaching.material import ANSWER as COACHING
from tests.domain.coaching.material import SALES, TALK

LABELS = {"sessions": [{"id": "s1", "intent": "refund", "summary": "Wants the {money} back [now]."}]}
GROUPS = {"groups": [{"canonical": "refund", "members": ["refund", "refunds"]}]}
AROUND = {
    "alone": "{}",
    "blanks": "\n {} \n",
    "byte order mark": "\ufeff{}",
    "fence": "```json\n{}\n```",
    "bare fence": "```\n{}\n```\n",
    "odd fence": "  ```JSON5\n{}\n  ```",
    "fence on one line": "```json {} ```",
    "prose before": "Here it is: {}",
    "prose behind": "{}\nAnything else?",
    "prose and a fence": "Here it is:\n```json\n{}\n```\nI hope that it helps.",
    "brackets in the prose": "The {{labels}} of [1]:\n```json\n{}\n```",
}


REFUNDS = [LabelEvidence(label=label) for label in ("refund", "refunds")]


def wrapped(way: str, value: Any) -> str:
    return AROUND[way].format(json.dumps(value))


def reply(way: str, value: Any) -> ChatReply:
    return ChatReply(text=wrapped(way, value), finish=Finish.STOP, usage=Usage(), model="local")


@pytest.mark.parametrize("way", AROUND)
def test_every_job_reads_the_same_text(way: str):
    assert parsed(wrapped(way, {"a": 1}), {"type": "object"}) == ({"a": 1}, "")
    assert read_reply(reply(way, COACHING), SALES, TALK)[1] == ""
    assert read_grade(reply(way, {"score": 0.5, "reason": "Fair."})).score is not None
    assert merges_of(read_groups(reply(way, GROUPS), REFUNDS), Likeness({})).mapping == {"refunds": "refund"}
    assert judge(reply(way, LABELS), {"s1": Containment.SELF_SERVICE}).missing == ()


@pytest.mark.parametrize("value", [None, True, 7, 0.5, "a", [], [1, [2]], {"a": {"b": "}"}}])
def test_any_value_may_be_in_a_fence(value: Any):
    assert read_reply_json(f"```\n{json.dumps(value)}\n```") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot do that.",
        '{"a": 1}{"a": 1}',
        '```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```',
        'First {"a": 1}, or else {"a": 2}.',
        '{"a": {"b": 1}, "c',
        'Here: [{"a": 1}, {"a',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        f'{{"a": {"9" * 301}}}',
        f'{{"a": {"9" * 10_000}}}',
        "[" * 100_000,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        "```\n" * 50_000,
        "```x\n" * 50_000 + "{",
    ],
    ids=range(16),
)
def test_no_value_several_and_half_ones_are_not_read(text: str):
    with pytest.raises(ValueError, match=r"."):
        read_reply_json(text)


def test_unstorable_characters_are_replaced():
    assert read_reply_json(r'{"na\u0000me": ["a\ud800b"]}') == {"na\ufffdme": ["a\ufffdb"]}
