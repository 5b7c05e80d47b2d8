"""When a request is billed; gates, rate limits, latency and the request log."""

import asyncio
import json
import socket
import threading
from pathlib import Path
from typing import Any

import openai
import pytest

from simulator.config import Config, Latency
from simulator.delivery import Connection
from simulator.recordings import Transcript
from simulator.records import RequestLog
from simulator.server import NotLoopback, Server, _listen
from simulator.wire import Body, Reply
from tests.simulator.material import wav

ASK: Any = {"model": "m", "messages": [{"role": "user", "content": "How is the weather on the ferry?"}]}


async def test_a_closed_gate_holds_billed_replies(openai_client, anthropic_client, admin):
    await admin.post("gate", provider="openai", closed=True)
    asking = [asyncio.create_task(openai_client.chat.completions.create(**ASK)) for _ in range(3)]
    held = await admin.get("requests", provider="openai", state="in_flight", billed="true", at_least=3)
    assert len(held) == 3
    assert all(request["ended_at"] is None for request in held)
    assert not any(task.done() for task in asking)
    await anthropic_client.messages.create(**ASK, max_tokens=50)  # another provider's gate is open
    assert await admin.post("gate", provider="openai", closed=False) == {
        "closed": {"openai": False, "anthropic": False, "elevenlabs": False, "local": False}
    }
    assert {reply.model for reply in await asyncio.gather(*asking)} == {"simulator/m"}
    assert len(await admin.get("requests", provider="openai", state="answered")) == 3


async def test_a_request_is_billed_if_the_client_disconnects(openai_client, admin):
    await admin.post("gate", closed=True)
    asking = asyncio.create_task(
        openai_client.chat.completions.create(**ASK, extra_headers={"X-Parley-Attempt-Id": "left"})
    )
    await admin.get("requests", attempt_id="left", billed="true", at_least=1)
    asking.cancel()
    request = await admin.only_request(state="gone")
    assert (request["attempt_id"], request["billed"]) == ("left", True)


async def test_waiting_for_requests_times_out(admin):
    answer = await admin.http.get("/admin/requests", params={"at_least": 1, "timeout": 0.05})
    assert (answer.status_code, answer.json()) == (408, [])


async def test_requests_are_filtered_by_attempt(openai_client, admin):
    for attempt in ("a", "b", "a"):
        await openai_client.chat.completions.create(**ASK, extra_headers={"X-Parley-Attempt-Id": attempt})
    assert [request["attempt_id"] for request in await admin.get("requests")] == ["a", "b", "a"]
    assert len(await admin.get("requests", attempt_id="a")) == 2
    await admin.post("reset")
    assert await admin.get("requests") == []


async def test_rate_limit_is_enforced_per_provider(openai_client, anthropic_client, admin):
    await admin.post("limits", provider="openai", requests=2)
    await openai_client.chat.completions.create(**ASK)
    await openai_client.chat.completions.create(**ASK)
    with pytest.raises(openai.RateLimitError) as limited:
        await openai_client.chat.completions.create(**ASK)
    assert 55 <= int(limited.value.response.headers["retry-after"]) <= 60
    assert limited.value.code == "rate_limit_exceeded"
    await anthropic_client.messages.create(**ASK, max_tokens=50)
    billed = [request["billed"] for request in await admin.get("requests", provider="openai")]
    assert billed == [True, True, False]


async def test_rate_limit_admits_requests_again_after_its_window(openai_client, admin):
    await admin.post("limits", provider="openai", requests=1, window_seconds=0.2)
    admitted, refused = 0, 0
    while admitted < 2:
        try:
            await openai_client.chat.completions.create(**ASK)
            admitted += 1
        except openai.RateLimitError:
            refused += 1
    assert refused > 0


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """How long the simulator would have waited, in order."""
    taken: list[float] = []

    async def pause(connection: Connection, seconds: float | None) -> bool:
        taken.append(seconds or 0)
        return True

    monkeypatch.setattr(Connection, "pause", pause)
    return taken


@pytest.mark.parametrize("seconds", [0, 0.2])
async def test_latency_delays_the_whole_reply(openai_client, admin, pauses, seconds):
    await admin.post("latency", seconds=seconds)
    await openai_client.chat.completions.create(**ASK)
    assert sum(pauses) == seconds


async def test_a_reply_is_sent_at_once():
    """With Nagle's algorithm, each reply takes 40 ms longer."""
    accepted: asyncio.Queue[socket.socket] = asyncio.Queue()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted.put(writer.get_extra_info("socket"))

    listener = _listen("127.0.0.1", 0)
    async with await asyncio.start_server(accept, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        connection = await accepted.get()
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()


async def test_tokens_arrive_at_the_configured_pace(openai_client, admin, pauses):
    await admin.post("latency", tokens_per_second=200)
    chunks = [chunk async for chunk in await openai_client.chat.completions.create(**ASK, stream=True)]
    tokens = (await admin.only_request())["output_tokens"]
    between = [seconds for seconds in pauses if seconds]
    assert len(between) >= len(chunks) - 1  # a pause before each part, not one before all
    assert max(between) == min(between)
    assert sum(between) == pytest.approx(tokens / 200, rel=0.3)


def test_lognormal_latency_has_the_configured_median_and_depends_on_the_seed():
    latency = Latency(median=0.8, sigma=0.5)
    drawn = sorted(latency.before_first_byte(7, n) for n in range(2001))
    assert drawn[1000] == pytest.approx(0.8, rel=0.06)
    assert drawn[0] < 0.3
    assert drawn[-1] > 2
    assert latency.before_first_byte(7, 3) == latency.before_first_byte(7, 3)
    assert latency.before_first_byte(7, 3) != latency.before_first_byte(8, 3)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("latency", {"seconds": -1}),
        ("latency", {"secs": 1}),
        ("limits", {"provider": "acme", "requests": 1}),
        ("limits", {"requests": 0}),
        ("gate", {"closed": "yes"}),
    ],
)
async def test_invalid_settings_are_refused(admin, path, body):
    assert (await admin.http.post(f"/admin/{path}", json=body)).status_code == 400


async def test_five_hundred_concurrent_requests_are_held_and_answered(openai_client, admin):
    await admin.post("gate", closed=True)
    asking = [
        asyncio.create_task(openai_client.chat.completions.create(**ASK, extra_headers={"X-Parley-Attempt-Id": str(n)}))
        for n in range(500)
    ]
    held = await admin.get("requests", state="in_flight", billed="true", at_least=500)
    assert len({request["attempt_id"] for request in held}) == 500
    await admin.post("gate", closed=False)
    assert len(await asyncio.gather(*asking)) == 500


async def test_decoding_a_recording_does_not_block_other_requests(
    openai_client, elevenlabs_client, admin, server, monkeypatch
):
    recordings, decoded = server.state.recordings, threading.Event()
    transcribe = recordings.transcribe

    def slow(data: bytes) -> Transcript:
        assert decoded.wait(10)
        return transcribe(data)

    monkeypatch.setattr(recordings, "transcribe", slow)
    speech = asyncio.create_task(
        elevenlabs_client.speech_to_text.convert(
            model_id="scribe_v1", file=("recording", wav((0.5, 0.3))), request_options={"max_retries": 0}
        )
    )
    await admin.get("requests", provider="elevenlabs", at_least=1)
    await openai_client.chat.completions.create(**ASK)
    assert (await admin.only_request(provider="elevenlabs"))["billed"] is False  # not computed yet
    decoded.set()
    assert (await speech).audio_duration_secs == 0.5


def test_the_log_is_read_after_a_restart(tmp_path: Path):
    path = tmp_path / "requests.jsonl"
    log = RequestLog(path)
    answered, held = log.receive("openai", "one"), log.receive("openai", "two")
    refused = log.receive("anthropic", "three")
    for request in (answered, held):
        log.bill(request, Reply(Body(()), input_tokens=10, output_tokens=5))
    log.end(answered, "answered", 200)
    log.end(refused, "refused", 429)
    with path.open("a") as file:
        file.write('{"number": 4, "prov')  # a line that is incomplete because the process was killed

    again = RequestLog(path)
    assert [(request.attempt_id, request.state, request.billed) for request in again.select()] == [
        ("one", "answered", True),
        ("two", "lost", True),
        ("three", "refused", False),
    ]
    assert again.receive("openai", "five").number > refused.number
    again.close()
    log.close()


def test_an_incomplete_last_line_is_followed_by_a_new_line(tmp_path: Path):
    path = tmp_path / "requests.jsonl"
    path.write_text('{"number": 4, "prov')
    log = RequestLog(path)
    log.bill(log.receive("openai", "one"), Reply(Body(()), input_tokens=1, output_tokens=1))
    log.close()
    assert json.loads(path.read_text().splitlines()[-1])["attempt_id"] == "one"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.10", "::", "example.com"])
def test_only_loopback_hosts_are_accepted(host):
    with pytest.raises(NotLoopback, match="not a loopback address"):
        Server(Config(host=host))


async def test_a_stream_is_billed_up_to_where_its_client_left(openai_client, admin):
    whole = await openai_client.chat.completions.create(**ASK)
    await admin.post("faults", fault="stall")
    stream = await openai_client.chat.completions.create(**ASK, stream=True)
    async for _ in stream:
        break
    await stream.close()
    (request,) = await admin.get("requests", state="gone", at_least=1)
    assert request["input_tokens"] == whole.usage.prompt_tokens
    assert 0 < request["output_tokens"] < whole.usage.completion_tokens


async def test_a_stream_whose_client_left_before_the_first_byte_is_billed_its_prompt(openai_client, admin):
    await admin.post("gate", closed=True)
    asking = asyncio.create_task(openai_client.chat.completions.create(**ASK, stream=True))
    await admin.get("requests", billed="true", at_least=1)
    asking.cancel()
    request = await admin.only_request(state="gone")
    assert (request["billed"], request["input_tokens"] > 0, request["output_tokens"]) == (True, True, 0)


async def test_the_tokens_of_prompt_caches_are_billed_apart(openai_client, anthropic_client, admin):
    text = "The export has notes. " * 400
    marked = {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}
    for _ in range(2):
        await anthropic_client.messages.create(
            model="m", max_tokens=50, messages=[{"role": "user", "content": [marked]}]
        )
        await openai_client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": text}])
    written, cold, read, warm = await admin.get("requests")
    assert (written["cached_input_tokens"], written["cache_write_tokens"] > 2000) == (0, True)
    assert (read["cached_input_tokens"], read["cache_write_tokens"]) == (written["cache_write_tokens"], 0)
    assert (cold["cached_input_tokens"], warm["cached_input_tokens"] > 2000) == (0, True)
