"""`client.phone`: numbers, and outbound phone calls by Twilio's REST API."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from pydantic import SecretStr

from parley import Backend, Client, InvalidInput, NotFound, NumberSettings
from parley.domain.errors import Unreachable
from parley.settings import Settings

NUMBER, TO = "+15550100002", "+15550100001"
ACCOUNT, TOKEN, PUBLIC = "AC0123", "secret-token", "https://phone.example.com"


@dataclass
class Rest:
    """Twilio's REST API, as far as a phone call needs it."""

    status: int = 201
    body: Any = field(default_factory=lambda: {"sid": "CA77", "status": "queued"})
    is_numbering: bool = False
    requests: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = (await reader.readexactly(int(headers["content-length"]))).decode()
        self.requests.append((first, headers, body))
        if self.is_numbering:
            self.body = {"sid": f"CA{len(self.requests)}", "status": "queued"}
        sent = (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()
        writer.write(
            f"HTTP/1.1 {self.status} OK\r\ncontent-length: {len(sent)}\r\nconnection: close\r\n\r\n".encode() + sent
        )
        await writer.drain()
        writer.close()


@pytest.fixture
async def rest() -> AsyncIterator[Rest]:
    made = Rest()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    async with server:
        yield made


@pytest.fixture
async def dialling(backend: Backend, client: Client, settings: Settings, rest: Rest) -> Client:
    """A client that can dial, with a number."""
    named = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": SecretStr(TOKEN), "twilio_base_url": rest.url}
    changed = settings.model_copy(update={**named, "phone_public_url": PUBLIC})
    made = Backend(backend.temporal, backend.database, changed).client(client.workspace_id)
    await made.phone.set_number(NUMBER, NumberSettings(parameters={"shop": "north"}))
    return made


async def test_dialling_asks_twilio_once_and_stores_the_phone_call(dialling: Client, rest: Rest):
    parameters = {"customer": "ann & bob", "pin": dialling.phone.sealed("4711")}
    assert await dialling.phone.dial(TO, from_number=NUMBER, parameters=parameters) == "CA77"
    [(first, headers, body)] = rest.requests
    assert first == f"POST /2010-04-01/Accounts/{ACCOUNT}/Calls.json HTTP/1.1"
    assert base64.b64decode(headers["authorization"].removeprefix("Basic ")).decode() == f"{ACCOUNT}:{TOKEN}"
    form = parse_qs(body)
    assert (form["To"], form["From"], form["Method"]) == ([TO], [NUMBER], ["POST"])
    assert form["StatusCallbackEvent"] == ["initiated", "ringing", "answered", "completed"]
    url = urlsplit(form["Url"][0])
    assert url._replace(query="").geturl() == f"{PUBLIC}/phone/voice"
    assert json.loads(dict(parse_qsl(url.query))["parameters"]) == parameters
    assert "4711" not in body
    call = await dialling.phone.call("CA77")
    assert (call.direction, call.status, call.caller, call.number) == ("outbound", "queued", TO, NUMBER)
    assert call.parameters == {"shop": "north", **parameters}


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (400, {"code": 21211, "message": "The 'To' number is not valid."}, InvalidInput, "21211"),
        (401, {"code": 20003, "message": "Authenticate"}, InvalidInput, "Authenticate"),
        (429, {"code": 20429, "message": "Too Many Requests"}, InvalidInput, "20429"),
        (400, "<html>", InvalidInput, "no reason"),
        (503, "busy", Unreachable, "503"),
        (201, {}, Unreachable, "names no phone call"),
        (201, "[]", Unreachable, "names no phone call"),
    ],
)
async def test_what_twilio_refuses_is_said_and_nothing_is_stored(
    dialling: Client, rest: Rest, status: int, body: Any, error: type[Exception], said: str
):
    rest.status, rest.body = status, body
    with pytest.raises(error, match=said) as caught:
        await dialling.phone.dial(TO, from_number=NUMBER)
    assert TOKEN not in str(caught.value)
    assert len(rest.requests) == 1
    assert await dialling.phone.calls() == ()


async def test_an_answer_that_is_lost_is_not_repeated(dialling: Client, rest: Rest):
    rest.url = ""
    broken = dialling.settings.model_copy(update={"twilio_base_url": "http://127.0.0.1:1"})
    backend = Backend(dialling.temporal, dialling.database, broken)
    with pytest.raises(Unreachable, match="may ring") as caught:
        await backend.client(dialling.workspace_id).phone.dial(TO, from_number=NUMBER)
    assert TO not in str(caught.value)


async def test_a_number_dials_for_its_own_workspace_and_within_its_limits(
    dialling: Client, backend: Backend, rest: Rest
):
    other = Backend(backend.temporal, backend.database, dialling.settings).client("other")
    with pytest.raises(NotFound):
        await other.phone.dial(TO, from_number=NUMBER)
    with pytest.raises(NotFound):
        await other.phone.call("CA77")
    await dialling.phone.set_number(NUMBER, {"limits": {"number_concurrent": 1}})
    await dialling.phone.dial(TO, from_number=NUMBER)
    with pytest.raises(InvalidInput, match="number_concurrent"):
        await dialling.phone.dial(TO, from_number=NUMBER)
    assert len(rest.requests) == 1


async def test_concurrent_phone_calls_do_not_exceed_a_limit(dialling: Client, rest: Rest):
    """Those that Twilio has begun to dial, and that have no room, are hung up."""
    rest.is_numbering = True
    await dialling.phone.set_number(NUMBER, {"limits": {"workspace_concurrent": 2, "caller_concurrent": None}})
    dialled = await asyncio.gather(
        *(dialling.phone.dial(TO, from_number=NUMBER) for _ in range(6)), return_exceptions=True
    )
    taken = {one for one in dialled if isinstance(one, str)}
    assert len(taken) == 2
    assert all("workspace_concurrent" in str(one) for one in dialled if not isinstance(one, str))
    assert {one.call_sid for one in await dialling.phone.calls()} == taken
    asked = [first.split()[1] for first, _, _ in rest.requests]
    hung_up = [path for path in asked if "/Calls/" in path]
    assert len(hung_up) == len(asked) - len(hung_up) - 2


async def test_phone_calls_are_listed_the_newest_first(dialling: Client, rest: Rest):
    await dialling.phone.set_number(NUMBER, {"limits": {"caller_concurrent": None}})
    for sid in ("CA1", "CA2", "CA3"):
        rest.body = {"sid": sid}
        await dialling.phone.dial(TO, from_number=NUMBER)
    listed = await dialling.phone.calls(limit=2)
    assert [call.call_sid for call in listed] == ["CA3", "CA2"]
    assert [call.call_sid for call in await dialling.phone.calls(before=listed[-1].started_at)] == ["CA1"]
    assert await dialling.phone.calls(is_open=False) == ()
