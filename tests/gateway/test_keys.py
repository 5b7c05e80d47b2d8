"""A key decides the workspace, the rights and the rate of a request."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import literal

from gateway.auth import KNOWN_SECONDS
from parley import Backend, Client
from parley.domain.gateway_keys import Scope
from parley.storage.database import Database
from tests.gateway.parts import Running, running_gateway

JOBS = "/api/jobs"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Basic abc"},
        {"authorization": "Bearer sk-of-another-product"},
        {"authorization": f"Bearer parley_{'a' * 43}"},
        {"x-api-key": "parley_short"},
        {"authorization": f"Bearer parley_{'a' * 43}", "x-api-key": f"parley_{'b' * 43}"},
    ],
    ids=["none", "another scheme", "another product's", "unknown", "too short", "two"],
)
async def test_a_request_without_a_valid_key_is_refused(headers: dict[str, str], gateway: Running):
    async with gateway.http() as http:
        answer = await http.get(JOBS, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "Unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not any(len(value) > 20 and value.split()[-1] in answer.text for value in headers.values())


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_a_key_is_accepted_in_either_header(header: str, gateway: Running, client: Client):
    secret = (await client.gateway_keys.create("app")).secret
    async with gateway.http() as http:
        given = f"Bearer {secret}" if header == "authorization" else secret
        assert (await http.get(JOBS, headers={header: given})).json() == {"jobs": [], "next": None}


async def test_the_key_is_checked_before_the_body_is_read(gateway: Running):
    async with gateway.http() as http:
        answer = await http.post(f"{JOBS}/generate", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 401


async def test_a_key_without_the_scope_is_refused(gateway: Running, client: Client):
    secret = (await client.gateway_keys.create("reader", scopes=[Scope.READ])).secret
    async with gateway.http(secret) as http:
        assert (await http.get(JOBS)).status_code == 200
        answer = await http.post(f"{JOBS}/generate", json={"messages": "Hi", "user_id": "ann"})
    assert (answer.status_code, answer.json()["code"]) == (403, "NotPermitted")
    assert "'generate'" in answer.json()["detail"]


async def test_a_revoked_key_is_refused_once_it_is_read_again(
    gateway: Running, client: Client, monkeypatch: pytest.MonkeyPatch
):
    key = await client.gateway_keys.create("app")
    async with gateway.http(key.secret) as http:
        assert (await http.get(JOBS)).status_code == 200
        await client.gateway_keys.revoke(key.key_id)
        monkeypatch.setattr("gateway.auth.KNOWN_SECONDS", 0.0)
        answer = await http.get(JOBS)
    assert (answer.status_code, "revoked" in answer.json()["detail"]) == (401, True)


def test_what_is_known_of_a_key_is_read_again_within_seconds():
    assert KNOWN_SECONDS <= 5


async def test_an_expired_key_is_refused(gateway: Running, client: Client, database: Database):
    key = await client.gateway_keys.create("app", expires_in=timedelta(milliseconds=1))
    async with gateway.http(key.secret) as http:
        assert (await http.get(JOBS)).status_code == 401


async def test_two_gateways_share_the_requests_of_a_minute(
    gateway: Running, backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("parley.storage.gateway_keys.MINUTE", literal(datetime(2026, 11, 2, 9, 0, tzinfo=UTC)))
    monkeypatch.setattr("parley.storage.gateway_keys.SECONDS_LEFT", literal(60))
    key = await client.gateway_keys.create("app", requests_per_minute=40)
    settings = backend.settings.model_copy(update={"gateway_port": 0})
    async with (
        running_gateway(backend, settings) as second,
        gateway.http(key.secret) as one,
        second.http(key.secret) as two,
    ):
        answers = await asyncio.gather(*(http.get(JOBS) for http in (one, two) for _ in range(30)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (40, 20)
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "TooManyRequests"
    assert 0 <= int(refused.headers["retry-after"]) <= 60


async def test_the_rate_limit_costs_few_statements(gateway: Running, client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("parley.storage.gateway_keys.SECONDS_LEFT", literal(60))
    taken: list[int] = []
    take = gateway.server._gateway.auth._take

    async def counted(key):
        taken.append(1)
        return await take(key)

    monkeypatch.setattr(gateway.server._gateway.auth, "_take", counted)
    key = await client.gateway_keys.create("app", requests_per_minute=1000)
    async with gateway.http(key.secret) as http:
        assert {(await http.get(JOBS)).status_code for _ in range(100)} == {200}
    assert len(taken) == 2  # 50 at a time


@pytest.fixture
async def other(gateway: Running, backend: Backend):
    """An HTTP client of another workspace."""
    key = await backend.client(f"other-{uuid4().hex[:8]}").gateway_keys.create("app")
    async with gateway.http(key.secret) as opened:
        yield opened


@pytest.mark.usefixtures("worker")
async def test_another_workspaces_job_looks_like_an_unknown_one(http: httpx.AsyncClient, other: httpx.AsyncClient):
    started = (await http.post(f"{JOBS}/generate", json={"messages": "Hi", "user_id": "ann"})).json()
    assert (await http.get(started["url"])).status_code == 200
    for part in ("", "/progress", "/result", "/events"):
        theirs = await other.get(f"{started['url']}{part}")
        unknown = await other.get(f"{JOBS}/{'x' * 40}{part}")
        assert theirs.status_code == unknown.status_code == 404
        assert without_ids(theirs) == without_ids(unknown)
    for action in ("cancel", "pause", "resume", "finish"):
        theirs, unknown = [await other.post(f"{url}/{action}") for url in (started["url"], f"{JOBS}/{'x' * 40}")]
        assert theirs.status_code == 404
        assert without_ids(theirs) == without_ids(unknown)


def without_ids(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.json().items() if name not in ("detail", "http_request_id")}
