"""Tools, images and options on each vendor's wire, and against the simulator, which refuses what the vendors refuse."""

import base64
import json
from decimal import Decimal
from typing import Any

import pytest

from parley.domain.capabilities import dropped_parameters
from parley.domain.errors import EmptyReply
from parley.domain.pricing import ConfiguredRates, cost, rates_for, upper_bound
from parley.domain.requests import (
    ChatReply,
    ChatRequest,
    Finish,
    ImagePart,
    Message,
    NamedTool,
    Provider,
    TextPart,
    Tool,
    ToolCall,
)
from tests.parts import SimulatorAdmin
from tests.providers.vendors import (
    CHAT,
    MODEL,
    answering,
    anthropic_body,
    chat,
    good_body,
    openai_body,
    providers,
    real,
    simulated,
)

OPENAI, LOCAL, ANTHROPIC = Provider.OPENAI, Provider.LOCAL, Provider.ANTHROPIC
each_llm = pytest.mark.parametrize("provider", CHAT)
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + (640).to_bytes(4) + (480).to_bytes(4)).decode()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city"],
}
WEATHER = Tool(name="get_weather", description="The weather of a city.", parameters=SCHEMA)
ASKED = Message(role="user", content="What is the weather in Oslo?")
CALLS = Message(
    role="assistant",
    content="Let me look.",
    tool_calls=(ToolCall(id="call:1", name="get_weather", arguments='{"city": "Oslo"}'),),
)
RESULT = Message(role="tool", content="Rain, 6 degrees.", tool_call_id="call:1")
PICTURE = Message(
    role="user",
    content=(
        TextPart(text="What is this?"),
        ImagePart(media_type="image/png", data=PNG, detail="low"),
        ImagePart(url="https://example.com/lift.png"),
    ),
)
# Every option that a request has.
EVERYTHING: dict[str, Any] = {
    "messages": (
        Message(role="developer", content="Be brief."),
        PICTURE,
        CALLS,
        RESULT,
        Message(role="user", content="?"),
    ),
    "tools": (WEATHER, Tool(name="call_lift", parameters=SCHEMA, strict=True), Tool(name="stop_lift", strict=True)),
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "stop": ("END", "STOP"),
    "seed": 7,
    "top_p": 0.9,
    "temperature": 0.1,
}


async def sent(provider: Provider, model: str = MODEL, **asked: Any) -> dict[str, Any]:
    async with answering(good_body(provider)) as stub, providers(real(stub.url)) as opened:
        await opened.adapter(provider).call(chat(**asked), model, "attempt-1")
    [request] = stub.requests
    return request.json


async def reply_to(provider: Provider, body: object) -> ChatReply:
    async with answering(body) as stub, providers(real(stub.url)) as opened:
        reply = await opened.adapter(provider).call(chat(tools=(WEATHER,)), MODEL, "attempt-1")
    assert isinstance(reply, ChatReply)
    return reply


async def ask(url: str, provider: Provider, model: str = MODEL, **asked: Any) -> ChatReply:
    async with providers(simulated(url)) as opened:
        reply = await opened.adapter(provider).call(chat(**asked), model, "attempt-1")
    assert isinstance(reply, ChatReply)
    return reply


# Requests


async def test_openai_gets_tools_calls_and_results_in_its_format():
    body = await sent(
        OPENAI, messages=(ASKED, CALLS, RESULT), tools=(WEATHER,), tool_choice=NamedTool(name="get_weather")
    )
    function = {"name": "get_weather", "description": "The weather of a city.", "parameters": SCHEMA}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    call = {"id": "call:1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    assert body["messages"][1] == {"role": "assistant", "content": "Let me look.", "tool_calls": [call]}
    assert body["messages"][2] == {"role": "tool", "content": "Rain, 6 degrees.", "tool_call_id": "call:1"}
    assert "parallel_tool_calls" not in body


async def test_anthropic_gets_tools_calls_and_results_in_its_format():
    body = await sent(ANTHROPIC, messages=(ASKED, CALLS, RESULT, ASKED), tools=(WEATHER,), parallel_tool_calls=False)
    assert body["tools"] == [{"name": "get_weather", "description": "The weather of a city.", "input_schema": SCHEMA}]
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert body["messages"] == [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "Rain, 6 degrees."},
                {"type": "text", "text": "What is the weather in Oslo?"},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (None, None),
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        (NamedTool(name="get_weather"), {"type": "tool", "name": "get_weather"}),
    ],
    ids=str,
)
async def test_anthropic_has_names_of_its_own_for_the_choice_of_a_tool(choice: Any, wanted: Any):
    assert (await sent(ANTHROPIC, tools=(WEATHER,), tool_choice=choice)).get("tool_choice") == wanted


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ('{"city": "Os', {"arguments": '{"city": "Os'}),
        ("[1]", {"arguments": [1]}),
        ('{"city": 1}', {"city": 1}),
        ('{"city": NaN}', {"arguments": '{"city": NaN}'}),
        ('{"city": 1e999}', {"arguments": '{"city": 1e999}'}),
        ('{"city": "\\ud83d"}', {"city": "\ufffd"}),
        ("[" * 100_000, {"arguments": "[" * 100_000}),
    ],
    ids=["cut", "list", "object", "nan", "1e999", "surrogate", "deep"],
)
async def test_arguments_that_a_model_wrote_by_mistake_reach_anthropic_as_an_object(arguments: str, wanted: object):
    call = ToolCall(id="c", name="get_weather", arguments=arguments)
    calls = Message(role="assistant", tool_calls=(call,))
    body = await sent(ANTHROPIC, messages=(ASKED, calls, Message(role="tool", content="", tool_call_id="c")))
    assert body["messages"][1]["content"][0]["input"] == wanted
    assert body["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "c"}]
    assert (body["tools"][0]["name"], body["tool_choice"]) == ("get_weather", {"type": "none"})


async def test_images_are_passed_on_and_never_fetched():
    parts = (await sent(OPENAI, messages=(PICTURE,)))["messages"][0]["content"]
    assert parts == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/lift.png"}},
    ]
    blocks = (await sent(ANTHROPIC, messages=(PICTURE,)))["messages"][0]["content"]
    assert blocks == [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/lift.png"}},
    ]


async def test_text_parts_are_one_text_and_a_developer_is_heard_by_every_vendor():
    parts = (TextPart(text="When does "), TextPart(text="the lift run?"))
    messages = (Message(role="developer", content="Be brief."), Message(role="user", content=parts))
    said = {"role": "user", "content": "When does the lift run?"}
    assert (await sent(OPENAI, messages=messages))["messages"] == [{"role": "developer", "content": "Be brief."}, said]
    assert (await sent(LOCAL, messages=messages))["messages"] == [{"role": "system", "content": "Be brief."}, said]
    body = await sent(ANTHROPIC, messages=messages)
    assert (body["system"], body["messages"]) == ("Be brief.", [said])


@pytest.mark.parametrize(("provider", "content"), [(OPENAI, None), (LOCAL, "")])
async def test_a_message_that_only_calls_tools_has_no_text(provider: Provider, content: object):
    calls = CALLS.model_copy(update={"content": None})
    body = await sent(provider, messages=(ASKED, calls, RESULT))
    assert body["messages"][1]["content"] == content


@pytest.mark.parametrize(
    ("provider", "model", "dropped"),
    [
        (OPENAI, "gpt-4o-mini", ()),
        (LOCAL, "llama", ()),
        (OPENAI, "o4-mini", ("temperature", "top_p", "stop", "parallel_tool_calls")),
        (OPENAI, "gpt-5-mini", ("temperature", "top_p", "stop")),
        (ANTHROPIC, "claude-haiku-4-5", ("temperature", "top_p", "seed")),
        (ANTHROPIC, "claude-3-haiku-20240307", ("temperature", "top_p", "seed", "strict")),
    ],
)
async def test_what_a_model_does_not_accept_is_left_out_and_named(
    simulator: SimulatorAdmin, provider: Provider, model: str, dropped: tuple[str, ...]
):
    body = await sent(provider, model, **EVERYTHING)
    request = chat(**EVERYTHING)
    assert dropped_parameters(provider, model, request) == dropped
    stop = "stop_sequences" if provider is ANTHROPIC else "stop"
    found = {"temperature", "top_p", "seed"} & body.keys() | ({"stop"} if stop in body else set())
    assert found == {"temperature", "top_p", "seed", "stop"} - {*dropped}
    await ask(simulator.url, provider, model, **EVERYTHING)  # the vendor's rules refuse what is sent by mistake


async def test_a_stop_text_of_blanks_is_dropped_where_the_vendor_refuses_it(simulator: SimulatorAdmin):
    request = chat(stop=("\n\n", "END"), temperature=None)
    assert dropped_parameters(ANTHROPIC, "claude", request) == ("stop",)
    assert (await sent(ANTHROPIC, stop=("\n\n", "END")))["stop_sequences"] == ["END"]
    assert dropped_parameters(OPENAI, "gpt-4o", request) == ()
    await ask(simulator.url, ANTHROPIC, stop=("\n",))


# Replies


async def test_calls_are_read_from_both_formats():
    function = {"name": "get_weather", "arguments": '{"city":  "Oslo"}'}
    openai_calls = [{"id": "call_1", "type": "function", "function": function}]
    reply = await reply_to(OPENAI, openai_body("tool_calls", content=None, tool_calls=openai_calls))
    assert (reply.text, reply.finish) == ("", Finish.TOOL_CALLS)
    assert reply.tool_calls == (ToolCall(id="call_1", name="get_weather", arguments='{"city":  "Oslo"}'),)
    block = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Ås"}}
    reply = await reply_to(ANTHROPIC, anthropic_body("tool_use", content=[block]))
    assert reply.tool_calls == (ToolCall(id="toolu_1", name="get_weather", arguments='{"city": "Ås"}'),)
    assert reply.finish is Finish.TOOL_CALLS


@pytest.mark.parametrize("finish", ["stop", "function_call", "tool_calls", "eos"])
async def test_a_reply_with_calls_waits_for_their_results_whatever_its_reason(finish: str):
    function = {"name": "get_weather", "arguments": ""}
    calls = [{"id": "", "type": "function", "function": function}]
    reply = await reply_to(LOCAL, openai_body(finish, content="", tool_calls=calls))
    assert (reply.finish, reply.tool_calls[0].arguments) == (Finish.TOOL_CALLS, "{}")
    assert reply.tool_calls[0].id.startswith("call_")


async def test_a_reply_that_names_calls_and_has_none_is_an_answer_or_empty():
    assert (await reply_to(LOCAL, openai_body("tool_calls", tool_calls=[]))).finish is Finish.STOP
    with pytest.raises(EmptyReply):
        await reply_to(LOCAL, openai_body("tool_calls", content="", tool_calls=None))


# Against the simulator


@each_llm
async def test_a_tool_is_called_and_its_result_is_answered(simulator: SimulatorAdmin, provider: Provider):
    calling = await ask(simulator.url, provider, messages=(ASKED,), tools=(WEATHER,))
    [call] = calling.tool_calls
    assert calling.finish is Finish.TOOL_CALLS
    assert call.name == "get_weather"
    assert 1 <= json.loads(call.arguments).get("days", 1) <= 9
    said = Message(role="assistant", content=calling.text, tool_calls=calling.tool_calls)
    result = Message(role="tool", content="Rain, 6 degrees.", tool_call_id=call.id)
    answer = await ask(simulator.url, provider, messages=(ASKED, said, result), tools=(WEATHER,))
    assert "Rain, 6 degrees." in answer.text
    assert (answer.finish, answer.tool_calls) == (Finish.STOP, ())


@each_llm
async def test_a_chat_of_one_vendor_goes_on_at_another(simulator: SimulatorAdmin, provider: Provider):
    """The ids, the messages without text, and the missing tools are what the next vendor accepts."""
    calls = CALLS.model_copy(update={"content": None})
    answer = await ask(simulator.url, provider, messages=(PICTURE, calls, RESULT, ASKED))
    assert answer.text


@each_llm
@pytest.mark.parametrize("words", ["Answer in JSON. Which lift?", "Which lift?"])
async def test_a_json_object_is_what_every_vendor_can_give(simulator: SimulatorAdmin, provider: Provider, words: str):
    asked = {"messages": (Message(role="user", content=words),), "json_object": True}
    assert ("json_object" in dropped_parameters(provider, MODEL, chat(**asked))) is (provider is ANTHROPIC)
    body = await sent(provider, **asked)
    assert body.get("response_format") == (None if provider is ANTHROPIC else {"type": "json_object"})
    await ask(simulator.url, provider, **asked)


@each_llm
async def test_everything_together_is_inside_the_upper_bound(simulator: SimulatorAdmin, provider: Provider):
    model = {OPENAI: "gpt-4o-mini", ANTHROPIC: "claude-haiku-4-5", LOCAL: "llama"}[provider]
    rates = ConfiguredRates(
        elevenlabs_usd_per_thousand_characters=Decimal(1),
        elevenlabs_usd_per_hour=Decimal(1),
        local_usd_per_million_input=Decimal(1),
        local_usd_per_million_output=Decimal(2),
    )
    reply = await ask(simulator.url, provider, model, **EVERYTHING)
    bound, _ = upper_bound(provider, model, chat(**EVERYTHING), rates)
    assert Decimal(0) < cost(reply.usage, rates_for(provider, model, rates)) < bound


def test_a_request_that_was_sent_before_has_the_fingerprint_of_before():
    """A new field at its default is not part of the JSON."""
    request = ChatRequest(messages=(ASKED,), max_tokens=5)
    assert request.model_dump(mode="json") == {
        "kind": "chat",
        "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
        "max_tokens": 5,
    }
