"""Who may send to a receiver, and what it does about the rest."""

import asyncio
import json
import logging
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from parley.codec import EncryptionCodec, new_keys
from parley.domain.errors import InvalidInput
from parley.streams import receiver as receiver_module
from parley.streams.frames import TOKEN_PURPOSE
from parley.streams.hub import StreamHub
from parley.streams.receiver import SocketReceiver
from tests.parts import TEST_TIMEOUT_SECONDS, until
from tests.streams.conftest import ACME, Streams, read, word

# The library logs headers. What the tests' own connections log is not compared.
NO_LOG = logging.getLogger("tests.streams.websockets")
NO_LOG.setLevel(logging.CRITICAL)
OLD, NEW = new_keys(), new_keys()
OPEN = {"kind": "open", "channel": 0, "workspace_id": ACME, "stream_id": "s", "attempt": 1, "stored": 0}
OPEN |= {"on_disconnect": "finish"}
DELTAS = {"kind": "deltas", "channel": 0, "offset": 0, "deltas": [{"kind": "text", "text": "one"}]}


def tokens(keys: str) -> tuple[str, ...]:
    return EncryptionCodec(keys).tokens(TOKEN_PURPOSE)


async def worker(address: str, token: str | None = None) -> ClientConnection:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return await connect(address, additional_headers=headers, proxy=None, logger=NO_LOG)


async def refusal(address: str, token: str | None) -> int:
    with pytest.raises(InvalidStatus) as caught:
        await worker(address, token)
    return caught.value.response.status_code


async def exchange(socket: ClientConnection, *frames: Any) -> list[dict[str, Any]]:
    await socket.send(json.dumps(frames))
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        return json.loads(await socket.recv())


async def test_only_workers_with_a_key_of_the_codec_send(streams: Streams, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    gateway = await streams.gateway(codec_keys=SecretStr(f"{OLD},{NEW}"))
    for token in (None, "", "wrong", "é".encode().decode("latin-1"), tokens(new_keys())[0]):
        assert await refusal(gateway.address, token) == 401
    for token in tokens(f"{OLD},{NEW}"):
        async with await worker(gateway.address, token) as socket:
            assert (await exchange(socket, OPEN))[0]["kind"] == "position"
    streams.settings = streams.settings.model_copy(update={"codec_keys": SecretStr(f"{NEW},{OLD}")})
    sink = streams.sink(gateway.address)
    await sink.open()
    sink.send(word("one"))
    assert await read(gateway.hub.read(*streams.key), 1) == ["one"]
    await sink.close()
    assert not any(token in caplog.text for token in tokens(f"{OLD},{NEW}"))


async def test_a_worker_with_other_keys_goes_on_without_the_receiver(streams: Streams) -> None:
    gateway = await streams.gateway(codec_keys=SecretStr(OLD))
    streams.settings = streams.settings.model_copy(update={"codec_keys": SecretStr(NEW)})
    sink = streams.sink(gateway.address)
    await sink.open()
    sink.send(word("one"))
    await sink.close()
    assert gateway.hub.position(*streams.key) == (0, 0)


def test_a_token_does_not_show_its_key() -> None:
    (token,) = tokens(OLD)
    assert token not in OLD
    assert OLD.partition(":")[2].rstrip("=") not in token
    assert EncryptionCodec(OLD).tokens("another purpose") != (token,)
    assert EncryptionCodec("off").tokens(TOKEN_PURPOSE) == ()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"stream_host": "0.0.0.0"}, "PARLEY_STREAM_HOST"),
        ({"stream_host": "::"}, "PARLEY_STREAM_HOST"),
        ({"stream_host": "gateway-1"}, "PARLEY_STREAM_HOST"),
        ({"stream_host": "0.0.0.0", "codec_keys": SecretStr(OLD)}, "PARLEY_STREAM_ADDRESS"),
        ({"codec_keys": None}, "PARLEY_CODEC_KEYS"),
    ],
)
async def test_an_unsafe_address_is_refused(
    streams: Streams, changes: dict[str, Any], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "127.0.1.1")
    with pytest.raises(InvalidInput, match=where):
        await SocketReceiver(StreamHub(), streams.settings.model_copy(update=changes)).address()


async def test_a_container_sends_workers_its_own_address(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "10.1.2.3")
    gateway = await streams.gateway(stream_host="0.0.0.0", codec_keys=SecretStr(OLD))
    assert gateway.address.startswith("ws://10.1.2.3:")


async def test_workers_are_sent_the_address_that_is_set(streams: Streams) -> None:
    gateway = await streams.gateway(stream_address="wss://gateway-1.internal/streams")
    assert gateway.address == "wss://gateway-1.internal/streams"


async def test_an_address_in_use_is_an_error_that_names_it(streams: Streams) -> None:
    gateway = await streams.gateway()
    with pytest.raises(InvalidInput, match=r"PARLEY_STREAM_HOST 127\.0\.0\.1:"):
        await streams.gateway(stream_port=int(gateway.address.rpartition(":")[2]))


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "no JSON",
        "{}",
        b"\xff\xfe",
        json.dumps([{"kind": "other", "channel": 0}]),
        json.dumps([{**OPEN, "attempt": 0}]),
        json.dumps([DELTAS]),
        json.dumps([OPEN, OPEN]),
        json.dumps([{"kind": "end", "channel": 7, "offset": 0}]),
        "[" * 100_000,
    ],
    ids=lambda garbage: str(garbage)[:20],
)
async def test_garbage_closes_its_connection_only(streams: Streams, garbage: str | bytes) -> None:
    gateway = await streams.gateway()
    async with await worker(gateway.address) as good, await worker(gateway.address) as bad:
        await exchange(good, OPEN)
        await bad.send(garbage)
        with pytest.raises(ConnectionClosed):
            await bad.recv()
        assert bad.close_code == 1008
        assert (await exchange(good, DELTAS, {"kind": "end", "channel": 0, "offset": 1}))[-1]["kind"] == "ended"
    assert await read(gateway.hub.read(ACME, "s"), 1) == ["one"]


async def test_a_message_that_is_too_long_closes_its_connection(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "MOST_BYTES", 1000)
    gateway = await streams.gateway()
    async with await worker(gateway.address) as socket:
        await socket.send("x" * 1001)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1009


async def test_connections_are_limited(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "MOST_CONNECTIONS", 2)
    gateway = await streams.gateway()
    async with await worker(gateway.address), await worker(gateway.address):
        await until(lambda: gateway.receiver.connections == 2)
        assert await refusal(gateway.address, None) == 503


async def test_a_connection_that_says_nothing_is_closed(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(receiver_module, "HANDSHAKE_SECONDS", 0.01)
    gateway = await streams.gateway()
    async with await worker(gateway.address) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    host, _, port = gateway.address.removeprefix("ws://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await reader.read()
    writer.close()


async def test_a_gap_is_answered_with_the_offset_that_is_wanted(streams: Streams) -> None:
    gateway = await streams.gateway()
    async with await worker(gateway.address) as socket:
        assert (
            await exchange(socket, OPEN, {**DELTAS, "offset": 3})
            == [{"kind": "position", "channel": 0, "offset": 0, "before": 0, "deltas": []}] * 2
        )
        assert (await exchange(socket, DELTAS, DELTAS, {**DELTAS, "offset": 2}))[0]["offset"] == 1
        newer = {**OPEN, "channel": 1, "attempt": 2}
        assert (await exchange(socket, newer))[0] == {
            **{"kind": "position", "channel": 1, "offset": 1, "before": 1},
            "deltas": DELTAS["deltas"],
        }
        assert await exchange(socket, {**DELTAS, "offset": 1}) == [{"kind": "refused", "channel": 0}]
        assert await exchange(socket, {**OPEN, "channel": 2}) == [{"kind": "refused", "channel": 2}]


async def test_a_report_that_fails_does_not_end_the_receiver(
    streams: Streams, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(receiver_module, "RECONNECT_SECONDS", 0)

    async def fail(*_: Any) -> None:
        raise RuntimeError("no workflow")

    receiver = SocketReceiver(StreamHub(), streams.settings, fail)
    address = await receiver.address()
    async with await worker(address) as socket:
        await exchange(socket, OPEN)
    await until(lambda: "could not be reported" in caplog.text)
    async with await worker(address) as socket:
        assert (await exchange(socket, OPEN))[0]["kind"] == "position"
    await receiver.close()
