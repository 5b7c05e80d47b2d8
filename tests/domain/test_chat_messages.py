"""The messages, tools and options that a caller may send, and what is refused before anything is paid."""

from typing import Any

import pytest
from pydantic import ValidationError

from parley.client.generate import generate_input
from parley.domain.errors import InvalidInput
from parley.domain.generate.contract import Prompt, chat_request
from parley.domain.requests import Message, Tool, ToolCall, joined_turns

CALLING = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "name": "f", "arguments": "{}"}]}
RESULT = {"role": "tool", "content": "6", "tool_call_id": "c1"}
ASKED = {"role": "user", "content": "Which floor?"}
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {}}}


def asked(*messages: Any, **options: Any) -> Any:
    return generate_input("w", messages or (ASKED,), user_id="ann", **options)


def problem(*messages: Any, **options: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        asked(*messages, **options)
    return str(caught.value)


def test_what_chat_clients_send_is_taken():
    messages = (
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "When does "}, {"type": "text", "text": "it run?"}]},
        {"role": "assistant", "content": None},
        ASKED,
        CALLING,
        RESULT,
        {"role": "user", "content": [{"type": "image", "url": "https://example.com/a.png"}]},
    )
    given = asked(*messages, tools=[TOOL], tool_choice="required", stop=["END"], seed=3, top_p=0.5)
    assert [message.text for message in given.prompt.messages[:2]] == ["Be brief.", "When does it run?"]
    request = chat_request(given, given.prompt)
    assert (request.stop, request.seed, request.top_p, request.tool_choice) == (("END",), 3, 0.5, "required")
    assert request.tools == (Tool.model_validate(TOOL),)
    assert Prompt.model_validate_json(given.prompt.model_dump_json()) == given.prompt


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ((ASKED, RESULT), "messages: Value error, message 1 answers no call before it"),
        ((ASKED, CALLING, RESULT, RESULT), "message 3 answers no call"),
        ((ASKED, CALLING, ASKED), "message 2 comes before the answer to tool call 'c1'"),
        ((ASKED, CALLING), "tool call 'c1' has no answer"),
        (
            (ASKED, {**CALLING, "tool_calls": CALLING["tool_calls"] * 2}, RESULT),
            "message 1 has two tool calls with one id",
        ),
        (({"role": "user"},), "messages.0: Value error, a user message must have a content"),
        (({**ASKED, "tool_call_id": "c"},), "messages.0: Value error, tool_call_id names the call"),
        (({**ASKED, "tool_calls": CALLING["tool_calls"]},), "only an assistant calls tools"),
        (
            ({"role": "system", "content": [{"type": "image", "url": "https://x/y"}]}, ASKED),
            "put them into a user message",
        ),
        (
            ({"role": "user", "content": [{"type": "image", "url": "file:///etc/passwd"}]},),
            "messages.0.content.0.image.url",
        ),
        (({"role": "user", "content": [{"type": "image", "data": "a?", "media_type": "image/png"}]},), "not base64"),
        (
            ({"role": "user", "content": [{"type": "image", "data": "YQ=="}]},),
            "give either the data with its media_type",
        ),
        (({"role": "user", "content": [{"type": "image", "data": "YQ==", "media_type": "image/bmp"}]},), "media_type"),
        (({"role": "user", "content": [{"type": "audio"}]},), "messages.0.content.0"),
        (({"role": "user", "content": "a\0"},), "messages.0.content: contains"),
        (({"role": "user", "content": [{"type": "text", "text": "a\0"}]},), "messages.0.content.0.text.text: contains"),
        (({"role": "robot", "content": "hi"},), "messages.0.role"),
        (({"role": "user", "content": [{"type": "text", "text": " "}]},), "messages are blank"),
    ],
)
def test_a_message_that_no_vendor_accepts_is_refused_with_its_place(messages: Any, words: str):
    assert words.replace("Value error, ", "") in problem(*messages).replace("Value error, ", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": [{**TOOL, "name": "a b"}]}, "tools.0.name"),
        ({"tools": [TOOL, TOOL]}, "two tools have the name 'f'"),
        ({"tools": [{**TOOL, "parameters": {"type": "array"}}]}, "tools.0.parameters/type: must be of type object"),
        ({"tools": [{**TOOL, "parameters": {"type": "object", "properties": 3}}]}, "tools.0.parameters/properties"),
        (
            {"tools": [{**TOOL, "parameters": {"type": "object", "properties": {"a": {}}}, "strict": True}]},
            "tools.0.parameters/properties/a: must have a type",
        ),
        ({"tools": [{**TOOL, "parameters": {"type": "object", "title": "a\0"}}]}, "tools.0.parameters/title"),
        ({"tool_choice": "required"}, "tool_choice is required, and there are no tools"),
        ({"tools": [TOOL], "tool_choice": {"name": "g"}}, "tool_choice names 'g', which is not one of the tools"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
        ({"json_object": True, "response_schema": {"type": "object"}}, "exclude each other"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"seed": 2**63}, "seed"),
        ({"top_p": 0}, "top_p"),
    ],
)
def test_options_that_no_vendor_accepts_are_refused_with_their_place(options: Any, words: str):
    assert words in problem(**options)


def test_a_tool_that_is_not_strict_may_have_any_schema_of_an_object():
    free = {"type": "object", "properties": {"a": {}}, "patternProperties": {"^x": {"type": "string"}}}
    assert asked(tools=[{**TOOL, "parameters": free}]).prompt.tools[0].parameters == free


def test_json_keeps_nothing_that_is_not_set_and_loses_nothing_that_is():
    assert Message(role="user", content="").model_dump() == {"role": "user", "content": ""}
    prompt = Prompt(messages=(Message(role="user", content="hi"),), parallel_tool_calls=False)
    assert prompt.model_dump(mode="json") == {
        "messages": [{"role": "user", "content": "hi"}],
        "parallel_tool_calls": False,
    }
    given = asked(temperature=0.0, seed=0)
    assert {"temperature": 0.0, "seed": 0}.items() <= given.model_dump().items()
    assert type(given).model_validate_json(given.model_dump_json()) == given


@pytest.mark.parametrize(
    "options",
    [{"tools": [TOOL]}, {"stop": ["a"]}, {"seed": 0}, {"top_p": 1.0}, {"json_object": True}, {"temperature": 0.0}],
    ids=lambda options: next(iter(options)),
)
def test_every_option_makes_another_generation(options: Any):
    assert asked(**options).fingerprint() != asked().fingerprint()


def test_calls_and_their_results_stay_messages_of_their_own():
    calling = Message(role="assistant", tool_calls=(ToolCall(id="c1", name="f", arguments="{}"),))
    results = [Message(role="tool", content=text, tool_call_id="c1") for text in ("a", "b")]
    said = Message(role="assistant", content="Six.")
    assert joined_turns([said, calling, *results, said, said]) == [
        said,
        calling,
        *results,
        Message(role="assistant", content="Six.\n\nSix."),
    ]


def test_images_stay_when_turns_are_joined():
    picture = Message.model_validate({"role": "user", "content": [{"type": "image", "url": "https://x/y"}]})
    [joined] = joined_turns([Message(role="user", content="Look:"), picture])
    assert (joined.text, joined.images) == ("Look:", picture.images)


def test_an_error_of_a_long_image_does_not_quote_it():
    data = "A" * 1000 + "?"
    with pytest.raises(ValidationError) as caught:
        Message.model_validate(
            {"role": "user", "content": [{"type": "image", "data": data, "media_type": "image/png"}]}
        )
    assert data not in str(caught.value)
