"""Signing in to the console: a key becomes a cookie that no page, log or database can turn back into it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest

from gateway.console.pages import HEADERS, STATIC, VERSION
from gateway.console.sign_in import COOKIE, TRIES
from parley import Backend, Client, Scope
from parley.storage import console_sessions
from parley.storage.database import Database
from tests.gateway.parts import Running, running_gateway
from tests.parts import run_sql

SIGN_IN, CONSOLE = "/console/sign-in", "/console"
UNKNOWN = f"parley_{'a' * 43}"


@asynccontextmanager
async def signed_in(gateway: Running, secret: str) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.http() as http:
        answer = await http.post(SIGN_IN, data={"key": secret})
        assert (answer.status_code, answer.headers["location"]) == (303, CONSOLE), answer.text
        yield http


def form_token(page: httpx.Response) -> str:
    found = re.search(r'name="form_token" value="(\w+)"', page.text)
    assert found, page.text
    return found[1]


@pytest.fixture
async def key(client: Client):
    return await client.gateway_keys.create("console", scopes=tuple(Scope), requests_per_minute=100_000)


async def test_a_page_without_a_sign_in_leads_to_it_and_back(gateway: Running, key):
    async with gateway.http() as http:
        sent = await http.get("/console?range=7d")
        assert (sent.status_code, sent.headers["location"]) == (303, f"{SIGN_IN}?next=%2Fconsole%3Frange%3D7d")
        form = await http.get(sent.headers["location"])
        assert 'value="/console?range=7d"' in form.text
        back = await http.post(SIGN_IN, data={"key": key.secret, "next": "/console?range=7d"})
    assert back.headers["location"] == "/console?range=7d"


@pytest.mark.parametrize("elsewhere", ["https://example.com", "//example.com", "/\\example.com", "/consoles", "/api"])
async def test_a_sign_in_leads_to_no_other_place(elsewhere: str, gateway: Running, key):
    async with gateway.http() as http:
        answer = await http.post(SIGN_IN, data={"key": key.secret, "next": elsewhere})
    assert answer.headers["location"] == CONSOLE


async def test_the_cookie_is_for_the_console_only_and_has_nothing_of_the_key(
    gateway: Running, key, database_url: str, database: Database
):
    async with gateway.http() as http:
        answer = await http.post(SIGN_IN, data={"key": key.secret}, headers={"x-forwarded-proto": "https"})
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/console"} <= set(cookie.split("; "))
    token = answer.cookies[COOKIE]
    assert key.secret not in cookie
    [row] = await run_sql(database_url, "SELECT console_sessions::text AS row FROM console_sessions")
    assert key.secret not in row["row"] and token not in row["row"]
    assert key.key_id in row["row"]


async def test_the_cookie_is_secure_behind_a_proxy_with_tls(backend: Backend, key):
    settings = backend.settings.model_copy(update={"gateway_port": 0, "gateway_trusted_proxies": "127.0.0.1"})
    async with running_gateway(backend, settings) as running, running.http() as http:
        answer = await http.post(SIGN_IN, data={"key": key.secret}, headers={"x-forwarded-proto": "https"})
    assert "Secure" in answer.headers["set-cookie"].split("; ")


async def test_every_key_that_is_refused_gets_the_same_answer(gateway: Running, client: Client):
    revoked = await client.gateway_keys.create("old")
    await client.gateway_keys.revoke(revoked.key_id)
    expired = await client.gateway_keys.create("short", expires_in=timedelta(microseconds=1))
    answers: set[tuple[int, str]] = set()
    async with gateway.http() as http:
        for secret in (UNKNOWN, "", "sk-of-another-product", revoked.secret, expired.secret):
            answer = await http.post(SIGN_IN, data={"key": secret})
            answers.add((answer.status_code, answer.text))
            assert COOKIE not in answer.cookies
    [(status, text)] = answers
    assert (status, "This key is not valid" in text, "revoked" in text) == (401, True, False)


async def test_an_address_that_guesses_must_wait(gateway: Running, key):
    async with gateway.http() as http:
        statuses = [(await http.post(SIGN_IN, data={"key": UNKNOWN})).status_code for _ in range(TRIES + 1)]
        refused = await http.post(SIGN_IN, data={"key": key.secret})
    assert statuses == [401] * TRIES + [429]
    assert (refused.status_code, 0 < int(refused.headers["retry-after"]) <= 60) == (429, True)


async def test_a_sign_in_that_succeeds_ends_the_count(gateway: Running, key):
    async with gateway.http() as http:
        for _ in range(2):
            for _ in range(TRIES - 1):
                await http.post(SIGN_IN, data={"key": UNKNOWN})
            assert (await http.post(SIGN_IN, data={"key": key.secret})).status_code == 303


async def test_a_key_without_the_scope_read_opens_nothing(gateway: Running, client: Client):
    other = await client.gateway_keys.create("app", scopes=[Scope.GENERATE])
    async with gateway.http() as http:
        answer = await http.post(SIGN_IN, data={"key": other.secret})
    assert (answer.status_code, COOKIE in answer.cookies) == (403, False)


async def test_a_revoked_key_ends_its_sign_ins(gateway: Running, client: Client, key, monkeypatch: pytest.MonkeyPatch):
    async with signed_in(gateway, key.secret) as http:
        assert (await http.get(CONSOLE)).status_code == 200
        await client.gateway_keys.revoke(key.key_id)
        monkeypatch.setattr("gateway.auth.KNOWN_SECONDS", 0.0)
        ended = await http.get(CONSOLE)
    assert (ended.status_code, ended.headers["hx-refresh"]) == (401, "true")
    assert "Your sign-in has ended" in ended.text


async def test_an_expired_sign_in_has_ended_and_is_deleted_by_the_next_one(
    gateway: Running, key, database: Database, database_url: str
):
    async with signed_in(gateway, key.secret) as http:
        await run_sql(database_url, "UPDATE console_sessions SET expires_at = now()")
        assert (await http.get(CONSOLE)).status_code == 401
    async with database.transaction() as tx:
        await console_sessions.begin(tx, key, "another", lasts=timedelta(hours=1))
    [left] = await run_sql(database_url, "SELECT count(*) AS n FROM console_sessions")
    assert left["n"] == 1


async def test_a_sign_out_ends_the_sign_in_at_every_gateway(gateway: Running, backend: Backend, key):
    settings = backend.settings.model_copy(update={"gateway_port": 0})
    async with (
        signed_in(gateway, key.secret) as http,
        running_gateway(backend, settings) as second,
        second.http(cookies=dict(http.cookies)) as other,
    ):
        page = await other.get(CONSOLE)
        assert page.status_code == 200
        out = await http.post("/console/sign-out", data={"form_token": form_token(page)})
        assert (out.status_code, out.headers["location"]) == (303, SIGN_IN)
        assert (await other.get(CONSOLE)).status_code == 401


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, ""),
        ({}, "0" * 64),
        ({"origin": "https://example.com"}, None),
        ({"origin": "null"}, None),
        ({"origin": "http://["}, None),
        ({"sec-fetch-site": "same-site"}, None),
        ({"sec-fetch-site": "cross-site"}, None),
    ],
    ids=[
        "no token",
        "another token",
        "another origin",
        "no origin",
        "no address",
        "another site's origin",
        "another site",
    ],
)
async def test_a_form_of_another_page_changes_nothing(
    headers: dict[str, str], token: str | None, gateway: Running, key
):
    async with signed_in(gateway, key.secret) as http:
        own = form_token(await http.get(CONSOLE))
        data = {"form_token": own if token is None else token}
        refused = await http.post("/console/sign-out", data=data, headers=headers)
        assert (refused.status_code, "text/html" in refused.headers["content-type"]) == (403, True)
        assert (await http.get(CONSOLE)).status_code == 200
        if token is None:
            again = await http.post(SIGN_IN, data={"key": key.secret}, headers=headers)
            assert again.status_code == 403


async def test_the_token_of_one_sign_in_is_not_that_of_another(gateway: Running, key):
    async with signed_in(gateway, key.secret) as one, signed_in(gateway, key.secret) as two:
        theirs = form_token(await two.get(CONSOLE))
        assert (await one.post("/console/sign-out", data={"form_token": theirs})).status_code == 403


async def test_a_key_in_a_header_opens_no_page_and_the_cookie_no_path_of_the_api(gateway: Running, key):
    async with gateway.http(key.secret) as http:
        assert (await http.get(CONSOLE)).status_code == 303
    async with signed_in(gateway, key.secret) as http:
        answer = await http.get("/api/jobs", headers={"cookie": f"{COOKIE}={http.cookies[COOKIE]}"})
    assert answer.status_code == 401


async def test_a_page_says_whose_it_is_and_lets_nothing_else_in(gateway: Running, client: Client, key):
    async with signed_in(gateway, key.secret) as http:
        pages = await asyncio.gather(http.get(CONSOLE), http.get("/console/nothing"), http.get(SIGN_IN))
    assert [page.status_code for page in pages] == [200, 404, 200]
    for page in pages:
        assert HEADERS.items() <= dict(page.headers).items()
        assert page.headers["cache-control"] == "no-store"
        assert not re.search(r"<style|<script(?! src)|\sstyle=|\son\w+=|javascript:", page.text)
    assert client.workspace_id in pages[0].text


async def test_a_file_is_kept_by_browsers_under_the_address_of_its_content(gateway: Running):
    async with gateway.http() as http:
        file = await http.get(f"{STATIC}/{VERSION}/console.css")
        missing = await http.get(f"{STATIC}/{VERSION}/../pages.py")
        above = await http.get(f"{STATIC}/{VERSION}/..%2f..%2fpages.py")
    assert (file.status_code, "immutable" in file.headers["cache-control"]) == (200, True)
    assert {missing.status_code, above.status_code} == {404}
