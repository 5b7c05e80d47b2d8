"""The adapters' streams: against the simulator, and as bytes that compatible servers are known to send."""

import json
import random  # noqa: TID251 - seeded divisions of a text
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from parley.domain.errors import (
    Billed,
    ContextTooLong,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    TruncatedReply,
)
from parley.domain.requests import ChatReply, Finish, Message, Provider, Tool, TranscriptionReply, Usage
from parley.domain.streaming import TextDelta, ToolCallDelta
from parley.providers.streaming import JoinedText
from tests.parts import SimulatorAdmin
from tests.providers.vendors import CHAT, KEY, MODEL, answering, chat, providers, question, real, simulated

OPENAI, LOCAL, ANTHROPIC = Provider.OPENAI, Provider.LOCAL, Provider.ANTHROPIC
each_llm = pytest.mark.parametrize("provider", CHAT)
chunked = pytest.mark.parametrize("provider", [OPENAI, LOCAL])
WEATHER = Tool(
    name="get_weather",
    description="The weather of a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
LIFT = Tool(name="call_lift", description="Calls the lift.", parameters={"type": "object", "properties": {}})
EMOJI = "Does the 電梯 🛗 stop at 👩‍🚀 or at café 𝄞?"


class Received:
    """What a stream gave: the deltas, and the reply or the error at its end."""

    def __init__(self) -> None:
        self.deltas: list[TextDelta | ToolCallDelta] = []
        self.reply: Any = None
        self.error: Any = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas if isinstance(delta, TextDelta))

    @property
    def calls(self) -> list[tuple[str, str, str]]:
        """The tool calls as their deltas make them: id, name, arguments."""
        calls: dict[int, list[str]] = {}
        for delta in self.deltas:
            if isinstance(delta, ToolCallDelta):
                call = calls.setdefault(delta.index, ["", "", ""])
                call[:] = [call[0] + delta.id, call[1] + delta.name, call[2] + delta.arguments]
        assert sorted(calls) == list(range(len(calls)))
        return [(id, name, arguments) for id, name, arguments in calls.values()]

    def check(self) -> ChatReply:
        """The deltas make the reply, and nothing else."""
        reply = self.reply
        assert isinstance(reply, ChatReply), self.error
        assert self.text == reply.text
        wanted = [(call.id, call.name, call.arguments) for call in reply.tool_calls]
        assert [(id, name, arguments or "{}") for id, name, arguments in self.calls] == wanted
        return reply


async def received(settings: Any, provider: Provider, request: Any = None) -> Received:
    found = Received()
    async with providers(settings) as opened:
        try:
            async for part in opened.adapter(provider).stream(request or question(provider), MODEL, "attempt-1"):
                assert found.reply is None, "the reply is the last part"
                if isinstance(part, (TextDelta, ToolCallDelta)):
                    found.deltas.append(part)
                else:
                    found.reply = part
        except ProviderError as error:
            found.error = error
    return found


async def streamed(provider: Provider, body: bytes, request: Any = None) -> Received:
    """What the adapter makes of the bytes of a stream."""
    async with answering(body, content_type="text/event-stream") as stub:
        return await received(real(stub.url), provider, request)


def chunk(delta: object = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return {"id": "c-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **fields}


def sse(*events: object, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, *(["data: [DONE]\n\n"] if done else [])]).encode()


def counts(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def events(*listed: dict[str, Any]) -> bytes:
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in listed).encode()


def opening(**usage: int) -> dict[str, Any]:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 1, **usage},
    }
    return {"type": "message_start", "message": message}


def block(index: int, *pieces: str, **start: Any) -> list[dict[str, Any]]:
    """A block of text, or of a tool call if `start` has its name."""
    is_call = "name" in start
    kind = {"type": "tool_use", "input": {}, **start} if is_call else {"type": "text", "text": ""}
    deltas = [
        {"type": "input_json_delta", "partial_json": piece} if is_call else {"type": "text_delta", "text": piece}
        for piece in pieces
    ]
    return [
        {"type": "content_block_start", "index": index, "content_block": kind},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def closing(stop: str = "end_turn", **usage: int) -> list[dict[str, Any]]:
    end = {"stop_reason": stop, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 6, **usage}},
        {"type": "message_stop"},
    ]


# Against the simulator


@each_llm
async def test_a_stream_gives_what_a_call_gives(simulator: SimulatorAdmin, provider: Provider):
    async with providers(simulated(simulator.url)) as opened:
        whole = await opened.adapter(provider).call(question(provider), MODEL, "attempt-1")
    found = await received(simulated(simulator.url), provider)
    reply = found.check()
    assert len(found.deltas) > 3
    assert reply.model_copy(update={"provider_request_id": ""}) == whole.model_copy(update={"provider_request_id": ""})
    assert [call["stream"] for call in await simulator.requests(at_least=2)] == [False, True]


@each_llm
async def test_tool_calls_come_as_deltas_too(simulator: SimulatorAdmin, provider: Provider):
    request = chat(messages=(Message(role="user", content="Call the lift; weather in Oslo?"),), tools=(WEATHER, LIFT))
    reply = (await received(simulated(simulator.url), provider, request)).check()
    assert (reply.finish, reply.text) == (Finish.TOOL_CALLS, "")
    assert {call.name for call in reply.tool_calls} == {"get_weather", "call_lift"}
    assert all(isinstance(json.loads(call.arguments), dict) for call in reply.tool_calls)


@chunked
@pytest.mark.parametrize("shape", ["", "usage_beside_choice", "usage_in_every_chunk"])
async def test_the_last_usage_is_the_count_wherever_it_comes(simulator: SimulatorAdmin, provider: Provider, shape: str):
    if shape:
        await simulator.fault(shape)
    reply = (await received(simulated(simulator.url), provider)).check()
    [call] = await simulator.requests(at_least=1)
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (call["input_tokens"], call["output_tokens"])


@each_llm
@pytest.mark.parametrize("fault", ["split_bytes", "split_escapes"])
async def test_a_character_in_pieces_arrives_whole(simulator: SimulatorAdmin, provider: Provider, fault: str):
    messages = (Message(role="system", content=EMOJI), Message(role="user", content="Where does the 電梯 🛗 𝄞 stop?"))
    await simulator.fault(fault)
    found = await received(simulated(simulator.url), provider, chat(messages=messages))
    reply = found.check()
    assert "🛗" in reply.text
    assert "\ufffd" not in reply.text


@each_llm
@pytest.mark.parametrize(
    ("fault", "error", "has_text"),
    [
        ("cut_at_first_token", ProviderUnavailable, True),
        ("cut", ProviderUnavailable, True),
        ("cut_after_last_token", ProviderUnavailable, True),
        ("in_stream_error", ProviderUnavailable, True),
        ("not_json", MalformedReply, False),
        ("no_finish", TruncatedReply, True),
    ],
)
async def test_a_broken_stream_is_an_error_after_its_deltas(
    simulator: SimulatorAdmin, provider: Provider, fault: str, error: type[ProviderError], has_text: bool
):
    await simulator.fault(fault)
    found = await received(simulated(simulator.url), provider)
    assert (type(found.error), bool(found.text), found.reply) == (error, has_text, None)
    assert found.error.billed is Billed.UNKNOWN


@each_llm
async def test_a_silent_stream_ends_with_the_timeout(simulator: SimulatorAdmin, provider: Provider):
    await simulator.fault("stall")
    found = await received(simulated(simulator.url, provider_timeout_seconds=0.3), provider)
    assert (type(found.error), bool(found.text)) == (ProviderUnavailable, True)
    assert found.error.detail == "no answer within the timeout"


@each_llm
async def test_an_error_before_the_stream_is_that_of_a_call(simulator: SimulatorAdmin, provider: Provider):
    await simulator.fault("rate_limit", retry_after=7)
    found = await received(simulated(simulator.url), provider)
    assert (type(found.error), found.error.billed, found.error.retry_after) == (RateLimited, Billed.NO, 7.0)


@chunked
async def test_what_was_counted_before_the_break_is_in_the_error(simulator: SimulatorAdmin, provider: Provider):
    body = sse(
        chunk({"content": "From "}, usage=counts(12, 1)), chunk({"content": "6"}, usage=counts(12, 2)), done=False
    )
    found = await streamed(provider, body)
    assert (type(found.error), found.error.billed) == (TruncatedReply, Billed.YES)
    assert found.error.usage == Usage(input_tokens=12, output_tokens=2)


async def test_the_connection_is_closed_when_the_reader_leaves(simulator: SimulatorAdmin):
    await simulator.fault("stall")
    async with providers(simulated(simulator.url)) as opened:
        stream = opened.adapter(OPENAI).stream(question(OPENAI), MODEL, "attempt-1")
        assert isinstance(await anext(stream), TextDelta)
        await stream.aclose()
    [call] = await simulator.requests(at_least=1)
    assert call["state"] == "cut"


async def test_a_recording_streams_its_transcription_alone(simulator: SimulatorAdmin):
    async with providers(simulated(simulator.url)) as opened:
        stream = opened.adapter(Provider.ELEVENLABS).stream(question(Provider.ELEVENLABS), MODEL, "attempt-1")
        parts = [part async for part in stream]
    assert [type(part) for part in parts] == [TranscriptionReply]


# What compatible servers send


@chunked
async def test_chunks_without_choices_do_not_end_a_stream(provider: Provider):
    filtered = {"id": "", "object": "chat.completion.chunk", "model": "", "choices": [], "prompt_filter_results": []}
    body = sse(
        filtered,
        chunk({"role": "assistant", "content": None}),
        chunk({"content": "From 6 "}),
        filtered,
        chunk({"content": "to 22."}),
        chunk(finish="stop"),
        {**filtered, "usage": counts(12, 6)},
    )
    reply = (await streamed(provider, body)).check()
    assert (reply.text, reply.usage) == ("From 6 to 22.", Usage(input_tokens=12, output_tokens=6))
    assert reply.model == "m"


ONE_CALL = {"city": "Oslo"}
PIECES = ['{"city": ', '"Oslo"}']


def piece(arguments: object = None, *, index: int | None = 0, id: str | None = None, name: str | None = None) -> Any:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    place = {} if index is None else {"index": index}
    return chunk({"tool_calls": [{**place, **({"id": id} if id is not None else {}), "function": function}]})


@pytest.mark.parametrize(
    ("pieces", "names"),
    [
        # OpenAI, llama.cpp, LM Studio
        ([piece("", id="a", name="f"), piece(PIECES[0]), piece(PIECES[1])], ["f"]),
        # vLLM and lmdeploy: an empty id in later pieces
        ([piece("", id="a", name="f"), piece(PIECES[0], id=""), piece(PIECES[1], id="")], ["f"]),
        # vLLM with a named tool: every piece has an id of its own, and the name
        ([piece(PIECES[0], id="a", name="f"), piece(PIECES[1], id="b", name="f")], ["f"]),
        # SGLang: the same id and name in every piece
        ([piece("", id="0", name="f"), piece(PIECES[0], id="0", name="f"), piece(PIECES[1], id="0")], ["f"]),
        # Ollama: whole calls, all with the index 0
        ([piece("".join(PIECES), id="a", name="f"), piece("".join(PIECES), id="b", name="f")], ["f", "f"]),
        (
            [piece("", id="a", name="f"), piece('{"city": "Oslo"}'), piece("", id="b", name="g"), *map(piece, PIECES)],
            ["f", "g"],
        ),
        # Older Ollama: no index
        ([piece("".join(PIECES), index=None, id="a", name="f")], ["f"]),
        # No id, and the arguments as an object
        ([piece(ONE_CALL, name="f")], ["f"]),
    ],
    ids=["openai", "vllm", "vllm-named", "sglang", "ollama", "lmdeploy", "no-index", "object"],
)
async def test_the_pieces_of_tool_calls_of_compatible_servers_are_put_together(pieces: Sequence[Any], names: list[str]):
    found = await streamed(LOCAL, sse(*pieces, chunk(finish="stop", usage=counts(9, 4))))
    reply = found.check()
    assert [(call.name, json.loads(call.arguments)) for call in reply.tool_calls] == [
        (name, ONE_CALL) for name in names
    ]
    assert reply.finish is Finish.TOOL_CALLS
    assert len({call.id for call in reply.tool_calls} - {""}) == len(names)


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        ({"error": {"message": "sorry", "type": "server_error"}}, ProviderUnavailable),
        ({"error": "the request exceeds the available context size"}, ContextTooLong),
        ({"error": {"message": "slow down", "code": 429}}, RateLimited),
        ({"object": "error", "message": "sorry", "code": 500}, ProviderUnavailable),  # vLLM
    ],
    ids=["openai", "text", "code", "vllm"],
)
async def test_an_error_event_is_that_error_and_may_have_been_billed(last: dict[str, Any], kind: type[ProviderError]):
    found = await streamed(LOCAL, sse(chunk({"content": "From "}), last))
    assert (type(found.error), found.error.billed, found.text) == (kind, Billed.UNKNOWN, "From ")
    counted = await streamed(LOCAL, sse(chunk({"content": "From "}, usage=counts(12, 1)), last))
    assert (type(counted.error), counted.error.usage) == (kind, Usage(input_tokens=12, output_tokens=1))


async def test_a_key_in_an_error_event_is_redacted():
    found = await streamed(LOCAL, sse(chunk({"content": "a"}), {"error": {"message": f"bad key {KEY}"}}))
    assert KEY not in f"{found.error!r} {found.error.args} {found.error.detail}"


@pytest.mark.parametrize("body", [b"", b'{"id": "not a stream"}', b": ping\n\n"], ids=["empty", "json", "comment"])
@each_llm
async def test_a_body_without_events_is_malformed(provider: Provider, body: bytes):
    found = await streamed(provider, body)
    assert (type(found.error), found.deltas) == (MalformedReply, [])


async def test_reasoning_and_parts_of_other_kinds_are_passed_over():
    body = sse(
        chunk({"reasoning_content": "Let me see."}),
        chunk({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Yes."}]}),
        chunk({"content": None}, finish=""),
        chunk(finish="stop", usage=counts(3, 2)),
    )
    assert (await streamed(LOCAL, body)).check().text == "Yes."


async def test_half_of_a_character_that_never_comes_is_marked():
    raw = sse(chunk({"content": "a"}), chunk({"content": "\ud83d"}), chunk(finish="stop", usage=counts(3, 2)))
    assert (await streamed(OPENAI, raw)).check().text == "a\ufffd"


async def test_the_last_counts_of_anthropic_are_those_of_the_message():
    body = events(
        opening(cache_read_input_tokens=100),
        {"type": "ping"},
        *block(0, "From 6 ", "to 22."),
        *closing(input_tokens=14, output_tokens=9),
    )
    reply = (await streamed(ANTHROPIC, body)).check()
    assert (reply.text, reply.finish) == ("From 6 to 22.", Finish.STOP)
    assert reply.usage == Usage(input_tokens=114, cached_input_tokens=100, output_tokens=9)


async def test_anthropics_blocks_of_text_and_tools_are_one_reply():
    body = events(
        opening(),
        *block(0, "Let me ", "look."),
        *block(1, *PIECES, id="toolu_1", name="get_weather"),
        *block(2, id="toolu_2", name="call_lift"),
        *closing("tool_use"),
    )
    reply = (await streamed(ANTHROPIC, body)).check()
    assert reply.text == "Let me look."
    assert [call.arguments for call in reply.tool_calls] == ["".join(PIECES), "{}"]
    assert reply.finish is Finish.TOOL_CALLS


async def test_anthropics_error_event_after_text_may_have_been_billed():
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    found = await streamed(ANTHROPIC, events(opening(), *block(0, "From "), overloaded))
    assert (type(found.error), found.error.billed, found.text) == (ProviderUnavailable, Billed.UNKNOWN, "From ")


async def test_anthropics_count_at_the_start_is_not_that_of_a_broken_reply():
    found = await streamed(ANTHROPIC, events(opening(), *block(0, "From 6 to 22, all of them. " * 20)))
    assert (type(found.error), found.error.usage) == (TruncatedReply, None)


# Properties


def test_text_that_is_cut_anywhere_is_the_same_text():
    """Each piece that comes out ends between two characters; no text is lost, added or changed."""
    for seed in range(300):
        rng = random.Random(seed)
        text = "".join(rng.choice(["a", " ", "é", "電", "🛗", "𝄞", "👩‍🚀", "\n"]) for _ in range(rng.randrange(30)))
        units = text.encode("utf-16-le")
        halves = [units[place : place + 2].decode("utf-16-le", "surrogatepass") for place in range(0, len(units), 2)]
        joined = JoinedText()
        out: list[str] = []
        while halves:
            size = rng.randrange(4)
            out.append(joined.add("".join(halves[:size])))
            del halves[:size]
        out.append(joined.end())
        assert "".join(out) == joined.text == text
        assert all(one.encode() is not None for one in out)


@each_llm
async def test_any_division_into_deltas_makes_the_reply(provider: Provider):
    for seed in range(12):
        rng = random.Random(seed)
        text, arguments = "A 🛗 lift — " * rng.randrange(1, 4), json.dumps({"city": "Ås 電 🛗"}, ensure_ascii=False)
        body = divided(provider, _cut(rng, text), _cut(rng, arguments))
        reply = (await streamed(provider, body)).check()
        assert (reply.text, reply.tool_calls[0].arguments) == (text, arguments)


def _cut(rng: random.Random, text: str) -> list[str]:
    units = text.encode("utf-16-le")
    places = sorted({0, len(units), *(2 * rng.randrange(len(units) // 2) for _ in range(5))})
    return [units[start:end].decode("utf-16-le", "surrogatepass") for start, end in pairwise(places)]


def divided(provider: Provider, text: Sequence[str], arguments: Sequence[str]) -> bytes:
    if provider is ANTHROPIC:
        blocks = [*block(0, *text), *block(1, *arguments, id="toolu_1", name="f")]
        return events(opening(), *blocks, *closing("tool_use"))
    said = [chunk({"content": one}) for one in text]
    called = [piece("", id="a", name="f"), *map(piece, arguments)]
    return sse(*said, *called, chunk(finish="tool_calls"), chunk(usage=counts(3, 9), choices=[]))
