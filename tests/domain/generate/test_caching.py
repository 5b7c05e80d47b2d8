"""Which cached answer may be returned: keys of prompts, and the comparison of questions."""

import json
from itertools import combinations, pairwise
from typing import Any

import pytest
from rapidfuzz.distance import OSA

from parley.domain.generate import words
from parley.domain.generate.caching import (
    cache_key,
    context_sha256,
    find_same,
    is_cacheable,
    question,
    same_question,
)
from parley.domain.requests import ChatReply, ChatRequest, Finish, ImagePart, Message, TextPart, Tool, ToolCall, Usage
from tests.parts import ROOT

QUESTIONS = ROOT / "samples" / "questions"
PAIRS: list[dict[str, Any]] = [
    json.loads(line)
    for name in ("pairs.jsonl", "held_out.jsonl")
    for line in (QUESTIONS / name).read_text(encoding="utf-8").splitlines()
]
SAME = [pair for pair in PAIRS if pair["same"]]
NOT_THE_SAME = [pair for pair in PAIRS if not pair["same"]]
TEXTS = [text for pair in PAIRS for text in (pair["one"], pair["other"])]

SCHEMA = {"type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"]}
SYSTEM = Message(role="system", content="You help customers.")
ASKED = Message(role="user", content="How do I reset my password?")
TOOL = Tool(name="reset_password")
CALL = ToolCall(id="c", name="reset_password", arguments="{}")
PICTURED = Message(role="user", content=(TextPart(text=ASKED.text), ImagePart(url="https://example.com/a.png")))


def request(*messages: Message, **changes: Any) -> ChatRequest:
    return ChatRequest(**{"messages": messages or (SYSTEM, ASKED), "max_tokens": 100, **changes})


def reply(text: str = "Like this.", finish: Finish = Finish.STOP) -> ChatReply:
    return ChatReply(text=text, finish=finish, usage=Usage(), model="model-1")


# Keys.

OTHER_REQUESTS = {
    "another question": request(SYSTEM, Message(role="user", content="How do I reset my PIN?")),
    "another system prompt": request(Message(role="system", content="You sell."), ASKED),
    "another role": request(Message(role="user", content=SYSTEM.content), ASKED),
    "another temperature": request(temperature=0.5),
    "another length": request(max_tokens=101),
    "a schema": request(response_schema=SCHEMA),
    "another schema's name": request(schema_name="mood"),
    "an image": request(SYSTEM, PICTURED),
    "a tool": request(tools=(TOOL,)),
    "a choice of tools": request(tools=(TOOL,), tool_choice="none"),
    "one call at a time": request(tools=(TOOL,), parallel_tool_calls=False),
    "a JSON object": request(json_object=True),
    "a stop": request(stop=("END",)),
    "a seed": request(seed=0),
    "a share of tokens": request(top_p=0.5),
}


@pytest.mark.parametrize("other", OTHER_REQUESTS.values(), ids=OTHER_REQUESTS)
def test_different_requests_have_different_keys(other: ChatRequest):
    assert cache_key("acme", other) != cache_key("acme", request())


def test_workspaces_have_different_keys():
    assert cache_key("acme", request()) == cache_key("acme", request())
    assert cache_key("acme", request()) != cache_key("globex", request())


def test_the_context_is_everything_but_the_last_question():
    asked = [name for name, other in OTHER_REQUESTS.items() if context_sha256(other) == context_sha256(request())]
    assert asked == ["another question"]


def test_the_question_is_the_last_user_message():
    answer = Message(role="assistant", content="Sure.")
    later = Message(role="user", content="And my PIN?")
    assert question(request(SYSTEM, ASKED, answer, later)) == "And my PIN?"
    assert question(request(ASKED, answer)) == ASKED.content
    assert question(request(SYSTEM)) == ""
    assert context_sha256(request(ASKED, answer)) != context_sha256(request(ASKED))


# What does not change.


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.REFUSED])
def test_an_incomplete_answer_is_not_cacheable(finish: Finish):
    assert is_cacheable(request(), reply())
    assert not is_cacheable(request(), reply(finish=finish))


def test_a_tool_call_is_not_cacheable():
    """It has an effect, or reads what changes, and its id must be its own."""
    assert not is_cacheable(request(tools=(TOOL,)), reply().model_copy(update={"tool_calls": (CALL,)}))


def test_an_answer_without_text_is_not_cacheable():
    assert not is_cacheable(request(), reply(" \n"))


def test_an_answer_that_breaks_the_schema_is_not_cacheable():
    asked = request(response_schema=SCHEMA)
    assert is_cacheable(asked, reply('{"mood": "fine"}'))
    assert not is_cacheable(asked, reply('{"mood": 3}'))
    assert not is_cacheable(asked, reply("Fine, thanks."))


# The same question.


def test_no_labelled_near_miss_is_the_same_question():
    assert len(NOT_THE_SAME) > 100
    assert [pair for pair in NOT_THE_SAME if same_question(pair["one"], pair["other"])] == []


def test_most_labelled_paraphrases_are_the_same_question():
    found = [pair for pair in SAME if same_question(pair["one"], pair["other"])]
    assert len(SAME) > 100
    assert len(found) / len(SAME) > 0.75


def test_the_same_question_is_symmetric():
    for one, other in pairwise(TEXTS):
        assert same_question(one, other) == same_question(other, one), (one, other)


def is_latin(text: str) -> bool:
    return not any(char.isalpha() and ord(char) > 0x250 for char in text)


def test_a_question_is_the_same_as_itself():
    assert [text for text in TEXTS if is_latin(text) and not same_question(text, text)] == []


def test_no_two_questions_of_different_pairs_are_the_same():
    """Every question with every other. One question is in two pairs, with its number in digits and in words."""
    ones = list(dict.fromkeys(pair["one"] for pair in PAIRS))
    found = {frozenset((one, ones[place])) for one in ones for place in find_same(one, ones)}
    twice = {"What's the price for 10 seats?", "What is the price for ten seats?"}
    assert {pair for pair in found if len(pair) > 1} == {frozenset(twice)}


SENTENCES = [text for text in dict.fromkeys(TEXTS) if len(text.split()) > 2]


def test_an_added_or_changed_number_makes_another_question():
    for text in SENTENCES:
        first, rest = text.split(maxsplit=1)
        assert not same_question(text, f"{first} 7 {rest}"), text
        assert not same_question(f"{first} 7 {rest}", f"{first} 17 {rest}"), text
        assert not same_question(f"{first} 7 {rest}", f"{first} seventy {rest}"), text


def test_an_added_negation_makes_another_question():
    for text in SENTENCES:
        first, rest = text.split(maxsplit=1)
        for negation in ("not", "never", "no", "without", "nicht", "pas"):
            assert not same_question(text, f"{first} {negation} {rest}"), text


def test_an_added_or_removed_word_makes_another_question():
    for text in SENTENCES:
        first, rest = text.split(maxsplit=1)
        assert not same_question(text, f"{first} zebra {rest}"), text
        assert not same_question(f"{first} zebra {rest}", f"{first} zebras {rest}"), text


def test_two_swapped_words_make_another_question():
    """Words at other positions change the meaning, except for a clause that moves to the other end."""
    assert not same_question("Move Anna to Ben now", "Move Ben to Anna now")
    assert same_question("On my phone, how do I mute a call?", "How do I mute a call on my phone?")
    assert not same_question("On my phone, how do I only mute a call?", "How do I only mute a call on my phone?")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cancel my order.", "Cancel my order?"),
        ("Can I tell us?", "Can I tell US?"),
        ('Delete "a, b".', 'Delete "a b".'),
        ("Send me the customers' list", "Send me the customer's list"),
        ("What are the customer's orders?", "What are the customers orders?"),
        ("Call Ben Anna", "Anna call Ben"),
        ("Can the customer see the delivery on the invoice?", "Can the custmer see the delivry on the invoce?"),
        ("你好", "你好"),
        ("Отмени заказ", "Отмени заказ"),
        ("word " * 100, "word " * 100),
        ("", ""),
        ("?!", "?!"),
        ("Hello", "Hello"),
    ],
)
def test_questions_that_the_rules_cannot_judge_are_different(one: str, other: str):
    assert not same_question(one, other)


def test_known_words_are_not_corrected():
    """No known word is a misspelling of another, however similar they are."""
    known = sorted(words.SPELLED | words.LOOKALIKES)
    alike = [(one, other) for one, other in combinations(known, 2) if OSA.distance(one, other, score_cutoff=1) == 1]
    assert len(alike) > 300
    spelt_twice = {("licence", "license"), ("licences", "licenses"), ("organisation", "organization")}
    for one, other in set(alike) - spelt_twice:
        assert not same_question(f"What is the {one} here", f"What is the {other} here"), (one, other)


def test_a_misspelled_name_is_another_name():
    assert same_question("How do I connect my calendr?", "How do I connect my calendar?")
    assert not same_question("How do I connect my Calendr?", "How do I connect my calendar?")


def test_the_same_questions_are_found_among_others():
    others = ["What do I owe?", "how can i reset my pasword", "Reset it.", "How do I reset my password"]
    assert sorted(find_same("How do I reset my password?", others)) == [1, 3]
    assert find_same("How do I reset my password?", []) == []
