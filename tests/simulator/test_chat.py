"""Tools, images, options and the shapes of streams, with the vendors' SDKs."""

import base64
import json
from typing import Any

import anthropic
import jsonschema
import openai
import pytest

TOOL = {
    "name": "book_table",
    "description": "Books a table in a restaurant.",
    "schema": {
        "type": "object",
        "properties": {
            "guests": {"type": "integer", "minimum": 1, "maximum": 8},
            "area": {"type": "string", "enum": ["inside", "terrace"]},
            "notes": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["guests", "area"],
    },
}
FUNCTION = {"name": TOOL["name"], "description": TOOL["description"], "parameters": TOOL["schema"]}
OPENAI_TOOL: Any = {"type": "function", "function": FUNCTION}
ANTHROPIC_TOOL: Any = {"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["schema"]}
OTHER = {"name": "cancel_order", "description": "Cancels an order.", "schema": {"type": "object", "properties": {}}}
OPENAI_OTHER: Any = {"type": "function", "function": {"name": OTHER["name"], "parameters": OTHER["schema"]}}
ASKED: Any = {"role": "user", "content": "Book a table on the terrace, please."}
CALL: Any = {"id": "call_1", "type": "function", "function": {"name": "book_table", "arguments": "{}"}}
CALLING: Any = {"role": "assistant", "content": None, "tool_calls": [CALL]}
SPOKEN: Any = {"role": "user", "content": "Say 'One moment, it's booked.' and book a table on the terrace."}
WORDS = "One moment, it's booked."
RESULT: Any = {"role": "tool", "tool_call_id": "call_1", "content": "Booked for six."}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
DATA_URL = f"data:image/png;base64,{PNG}"


async def complete(client: openai.AsyncOpenAI, *messages: Any, **options: Any) -> Any:
    return await client.chat.completions.create(model="gpt-4o-mini", messages=[*messages] or [ASKED], **options)


async def message(client: anthropic.AsyncAnthropic, *messages: Any, **options: Any) -> Any:
    return await client.messages.create(model="claude", max_tokens=300, messages=[*messages] or [ASKED], **options)


def picture(url: str) -> Any:
    return {
        "role": "user",
        "content": [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": url}}],
    }


def image(media_type: str = "image/png", data: str = PNG) -> Any:
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "?"}]}


# OpenAI


async def test_openai_calls_the_tool_that_the_prompt_mentions_with_valid_arguments(openai_client, admin):
    completion = await complete(openai_client, tools=[OPENAI_OTHER, OPENAI_TOOL])
    choice = completion.choices[0]
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content, call.function.name) == ("tool_calls", None, "book_table")
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, TOOL["schema"])
    assert arguments["area"] == "terrace"
    request = await admin.only_request()
    assert request["output_tokens"] == completion.usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["book_table", "cancel_order"]),
        ({"parallel_tool_calls": False}, ["book_table"]),
        ({"tool_choice": "none"}, []),
        ({"tool_choice": {"type": "function", "function": {"name": "cancel_order"}}}, ["cancel_order"]),
    ],
    ids=["auto", "one", "none", "named"],
)
async def test_the_choice_decides_which_tools_are_called(openai_client, options, names):
    asked = {"role": "user", "content": "Book a table, a big table, and cancel the other."}
    completion = await complete(openai_client, asked, tools=[OPENAI_TOOL, OPENAI_OTHER], **options)
    assert [call.function.name for call in completion.choices[0].message.tool_calls or ()] == names


async def test_a_tool_that_is_not_mentioned_is_called_only_if_it_must_be(openai_client):
    hello = {"role": "user", "content": "Hello there!"}
    assert (await complete(openai_client, hello, tools=[OPENAI_TOOL])).choices[0].message.content
    forced = await complete(openai_client, hello, tools=[OPENAI_TOOL], tool_choice="required")
    assert forced.choices[0].finish_reason == "tool_calls"


async def test_openai_answers_from_the_results_of_tools(openai_client):
    completion = await complete(openai_client, ASKED, CALLING, RESULT, tools=[OPENAI_TOOL])
    assert "Booked for six." in completion.choices[0].message.content


@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        ([ASKED, RESULT], {}, "must be a response to a preceeding message with 'tool_calls'"),
        ([ASKED, CALLING], {}, "did not have response messages: call_1"),
        ([ASKED, CALLING, ASKED], {}, "did not have response messages: call_1"),
        ([{"role": "robot", "content": "x"}], {}, "Invalid value: 'robot'"),
        ([{"role": "user", "content": None}], {}, "expected a string, got null"),
        ([ASKED], {"tools": []}, "empty array"),
        ([ASKED], {"tool_choice": "auto"}, "only allowed when 'tools' are specified"),
        ([ASKED], {"parallel_tool_calls": True}, "only allowed when 'tools' are specified"),
        ([ASKED], {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "does not match pattern"),
        (
            [ASKED],
            {"tools": [{"type": "function", "function": {**FUNCTION, "parameters": {"type": "array"}}}]},
            "'type: \"object\"'",
        ),
        ([ASKED], {"tools": [{"type": "function", "function": {**FUNCTION, "strict": True}}]}, "additionalProperties"),
        (
            [ASKED],
            {"tools": [OPENAI_TOOL], "tool_choice": {"type": "function", "function": {"name": "z"}}},
            "not found",
        ),
        ([ASKED], {"stop": ["a", "b", "c", "d", "e"]}, "maximum length 4"),
        ([ASKED], {"n": 0}, "Invalid 'n'"),
        ([ASKED], {"seed": 0.5}, "Invalid 'seed'"),
        ([ASKED], {"response_format": {"type": "json_object"}}, "must contain the word 'json'"),
        ([picture("data:image/bmp;base64,Qk0=")], {}, "unsupported image"),
        ([picture(DATA_URL.replace("png", "jpeg"))], {}, "unsupported image"),
        ([picture("data:image/png;base64,?")], {}, "Invalid base64"),
        ([picture("file:///etc/passwd")], {}, "Invalid image URL"),
    ],
)
async def test_openai_refuses_what_the_vendor_refuses(openai_client, admin, messages, options, words):
    with pytest.raises(openai.BadRequestError) as caught:
        await complete(openai_client, *messages, **options)
    assert words in str(caught.value)
    assert caught.value.param
    assert (await admin.only_request())["billed"] is False


@pytest.mark.parametrize("name", ["stop", "parallel_tool_calls"])
async def test_reasoning_models_refuse_what_the_vendor_refuses(openai_client, name):
    options: Any = {"stop": "x"} if name == "stop" else {"parallel_tool_calls": True, "tools": [OPENAI_TOOL]}
    with pytest.raises(openai.BadRequestError, match="is not supported with this model"):
        await openai_client.chat.completions.create(model="o4-mini", messages=[ASKED], **options)


async def test_images_are_counted_and_not_fetched(openai_client):
    plain = await complete(openai_client, {"role": "user", "content": "?"})
    for url in (DATA_URL, "https://nowhere.invalid/lift.png"):
        seen = await complete(openai_client, picture(url))
        assert seen.usage.prompt_tokens > plain.usage.prompt_tokens + 80


async def test_a_stop_ends_the_text_and_is_not_in_it(openai_client):
    whole = (await complete(openai_client)).choices[0].message.content
    stop = whole.split()[2]
    stopped = await complete(openai_client, stop=[stop, "nothing"])
    assert stopped.choices[0].message.content == whole[: whole.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


async def test_several_choices_are_billed_together(openai_client, admin):
    completion = await complete(openai_client, n=5)
    texts = [choice.message.content for choice in completion.choices]
    assert [choice.index for choice in completion.choices] == list(range(5))
    assert len({*texts}) > 1
    assert completion.usage.completion_tokens == (await admin.only_request())["output_tokens"] > 5


async def test_a_seed_gives_its_own_answer_each_time(openai_client):
    texts = [(await complete(openai_client, seed=seed)).choices[0].message.content for seed in (*range(6), *range(6))]
    assert texts[:6] == texts[6:]
    assert len({*texts}) > 1


async def test_a_json_object_is_an_object(openai_client):
    asked = {"role": "user", "content": "Say it in JSON."}
    completion = await complete(openai_client, asked, response_format={"type": "json_object"})
    assert isinstance(json.loads(completion.choices[0].message.content), dict)


async def test_a_streamed_call_is_the_same_call(openai_client):
    whole = await complete(openai_client, tools=[OPENAI_TOOL])
    stream = await complete(openai_client, tools=[OPENAI_TOOL], stream=True)
    deltas = [call async for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
    wanted = whole.choices[0].message.tool_calls[0].function
    assert deltas[0].function.name == wanted.name
    assert "".join(delta.function.arguments or "" for delta in deltas) == wanted.arguments
    assert len(deltas) > 3


async def test_openai_says_what_it_is_asked_to_say_before_it_calls_a_tool(openai_client):
    whole = (await complete(openai_client, SPOKEN, tools=[OPENAI_TOOL])).choices[0]
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", WORDS)
    assert [call.function.name for call in whole.message.tool_calls] == ["book_table"]
    stream = await complete(openai_client, SPOKEN, tools=[OPENAI_TOOL], stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream]
    assert "".join(delta.content or "" for delta in deltas) == WORDS
    kinds = [bool(delta.tool_calls) for delta in deltas if delta.content or delta.tool_calls]
    assert kinds == sorted(kinds)
    assert (await complete(openai_client, SPOKEN)).choices[0].message.content != WORDS


@pytest.mark.parametrize(("said", "rest"), [("One moment,", " it's booked."), (WORDS, None)])
async def test_an_answer_that_is_continued_calls_its_tool_too(openai_client, said, rest):
    asked = "Your answer was interrupted. Continue it exactly where it ends."
    continued = ({"role": "assistant", "content": said}, {"role": "user", "content": asked})
    [choice] = (await complete(openai_client, SPOKEN, *continued, tools=[OPENAI_TOOL])).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", rest)
    assert [call.function.name for call in choice.message.tool_calls] == ["book_table"]


async def test_an_argument_with_a_pattern_is_the_last_word_that_follows_it(openai_client):
    schema = {"type": "object", "properties": {"digits": {"type": "string", "pattern": "^[0-9#w]+$"}}}
    tool: Any = {"type": "function", "function": {"name": "send_digits", "parameters": schema}}
    asked: Any = {"role": "user", "content": "Room 7: send the digits 9ww42#."}
    completion = await complete(openai_client, asked, tools=[tool])
    assert json.loads(completion.choices[0].message.tool_calls[0].function.arguments) == {"digits": "9ww42#"}


@pytest.mark.parametrize(
    ("fault", "with_usage", "beside"),
    [("", 1, 0), ("usage_beside_choice", 1, 1), ("usage_in_every_chunk", None, None), ("no_usage", 0, 0)],
)
async def test_the_shapes_of_usage_in_a_stream(openai_client, admin, fault, with_usage, beside):
    if fault:
        await admin.post("faults", fault=fault)
    chunks = [
        chunk async for chunk in await complete(openai_client, stream=True, stream_options={"include_usage": True})
    ]
    counted = [chunk for chunk in chunks if chunk.usage]
    if with_usage is None:
        made = [chunk.usage.completion_tokens for chunk in counted]
        assert len(counted) == len(chunks)
        assert made == sorted(made)
    else:
        assert (len(counted), len([chunk for chunk in counted if chunk.choices])) == (with_usage, beside)
    if counted:
        assert counted[-1].usage.completion_tokens == (await admin.only_request())["output_tokens"]


@pytest.mark.parametrize(("fault", "pieces"), [("cut_at_first_token", 1), ("cut_after_last_token", None)])
async def test_a_stream_breaks_where_the_fault_says(openai_client, admin, fault, pieces):
    whole = [chunk async for chunk in await complete(openai_client, stream=True)]
    tokens = [chunk for chunk in whole if chunk.choices[0].delta.content]
    await admin.post("faults", fault=fault)
    got = []
    with pytest.raises(openai.APIConnectionError):
        async for chunk in await complete(openai_client, stream=True):
            got.append(chunk)
    assert len([chunk for chunk in got if chunk.choices[0].delta.content]) == (pieces or len(tokens))
    assert not any(chunk.choices[0].finish_reason for chunk in got)


async def test_slow_tokens_come_one_by_one(openai_client, admin):
    await admin.post("faults", fault="slow_tokens", hold=0.05)
    chunks = [chunk async for chunk in await complete(openai_client, stream=True)]
    assert chunks[-1].choices[0].finish_reason == "stop"


# Anthropic


async def test_anthropic_calls_the_tool_that_the_prompt_mentions(anthropic_client):
    other = {"name": "cancel_order", "input_schema": OTHER["schema"]}
    reply = await message(anthropic_client, tools=[other, ANTHROPIC_TOOL])
    [block] = reply.content
    assert (reply.stop_reason, block.type, block.name) == ("tool_use", "tool_use", "book_table")
    jsonschema.validate(block.input, TOOL["schema"])


async def test_anthropic_says_what_it_is_asked_to_say_before_it_calls_a_tool(anthropic_client):
    reply = await message(anthropic_client, SPOKEN, tools=[ANTHROPIC_TOOL])
    assert [(block.type, getattr(block, "text", None)) for block in reply.content] == [
        ("text", WORDS),
        ("tool_use", None),
    ]
    jsonschema.validate(reply.content[1].input, TOOL["schema"])
    async with anthropic_client.messages.stream(
        model="claude", max_tokens=300, messages=[SPOKEN], tools=[ANTHROPIC_TOOL]
    ) as stream:
        streamed = await stream.get_final_message()
    assert [block.type for block in streamed.content] == ["text", "tool_use"]
    assert (streamed.content[0].text, streamed.content[1].input) == (WORDS, reply.content[1].input)


async def test_anthropic_answers_from_the_results_of_tools(anthropic_client):
    use = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "book_table", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Booked for six."}]}
    reply = await message(anthropic_client, ASKED, use, result, tools=[ANTHROPIC_TOOL])
    assert "Booked for six." in reply.content[0].text


async def test_anthropics_stream_has_a_block_for_each_call(anthropic_client):
    asked = {"role": "user", "content": "Book a table and cancel the order."}
    other = {"name": "cancel_order", "input_schema": OTHER["schema"]}
    async with anthropic_client.messages.stream(
        model="claude", max_tokens=300, messages=[asked], tools=[ANTHROPIC_TOOL, other]
    ) as stream:
        reply = await stream.get_final_message()
    assert [block.name for block in reply.content] == ["book_table", "cancel_order"]
    jsonschema.validate(reply.content[0].input, TOOL["schema"])


async def test_a_stop_sequence_is_named(anthropic_client):
    whole = (await message(anthropic_client)).content[0].text
    stop = whole.split()[2]
    reply = await message(anthropic_client, stop_sequences=[stop])
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", stop)
    assert reply.content[0].text == whole[: whole.index(stop)]


USE: Any = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]}
USED: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "x"}]}


@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        ([ASKED, USED], {"tools": [ANTHROPIC_TOOL]}, "unexpected `tool_use_id`"),
        ([ASKED, USE, ASKED], {"tools": [ANTHROPIC_TOOL]}, "without `tool_result` blocks immediately after: t1"),
        ([ASKED, USE], {"tools": [ANTHROPIC_TOOL]}, "without `tool_result`"),
        ([ASKED, USE, USED], {}, "must define tools"),
        ([ASKED], {"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, "should match pattern"),
        ([ASKED], {"tools": [{"name": "f"}]}, "input_schema: Field required"),
        ([ASKED], {"tools": [{"name": "f", "input_schema": {"type": "array"}}]}, "Input should be 'object'"),
        ([ASKED], {"tools": [{**ANTHROPIC_TOOL, "strict": True}]}, "additionalProperties"),
        ([ASKED], {"tool_choice": {"type": "auto"}}, "while providing tools"),
        ([ASKED], {"tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "tool", "name": "z"}}, "not found in tools"),
        ([ASKED], {"stop_sequences": ["\n"]}, "non-whitespace"),
        ([ASKED], {"extra_body": {"seed": 1}}, "seed: Extra inputs are not permitted"),
        ([image("image/bmp")], {}, "Input should be 'image/jpeg'"),
        ([image("image/jpeg")], {}, "does not match the provided media type"),
        ([image(data="?")], {}, "invalid base64"),
        ([image(data=base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(5 * 2**20)).decode())], {}, "exceeds 5 MB"),
    ],
)
async def test_anthropic_refuses_what_the_vendor_refuses(anthropic_client, admin, messages, options, words):
    with pytest.raises(anthropic.BadRequestError) as caught:
        await message(anthropic_client, *messages, **options)
    assert words in str(caught.value)
    assert (await admin.only_request())["billed"] is False


async def test_an_image_is_counted(anthropic_client):
    plain = await message(anthropic_client, {"role": "user", "content": "?"})
    assert (await message(anthropic_client, image())).usage.input_tokens > plain.usage.input_tokens + 80


INTERRUPTED = "Your answer was interrupted. Continue it exactly where it ends, and repeat nothing."


@pytest.mark.parametrize("said", [9, 1000])
async def test_an_interrupted_answer_is_continued_by_both_vendors(openai_client, anthropic_client, said):
    asked: Any = {"role": "user", "content": "How is the weather on the ferry?"}
    whole = (await complete(openai_client, asked)).choices[0].message.content
    turns: Any = [asked, {"role": "assistant", "content": whole[:said]}, {"role": "user", "content": INTERRUPTED}]
    assert (await complete(openai_client, *turns)).choices[0].message.content == whole[said:]
    reply = await anthropic_client.messages.create(model="claude-haiku-4-5", messages=turns, max_tokens=2)
    assert (reply.content[0].text if reply.content else "") == whole[said : said + 8]
