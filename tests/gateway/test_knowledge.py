"""The knowledge base over HTTP: documents, the search, and the scope that changes them."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from parley import Backend, Client, Scope
from tests.gateway.parts import Running

PATH = "/api/knowledge"
POOL = {"name": "pool.md", "text": "# The pool\n\n## Hours\n\nThe pool opens at six and closes at ten."}
SCOPES = (Scope.KNOWLEDGE, Scope.READ)


@pytest.fixture
async def http(gateway: Running, client: Client) -> AsyncIterator[httpx.AsyncClient]:
    key = await client.gateway_keys.create("tests", scopes=SCOPES, requests_per_minute=100_000)
    async with gateway.http(key.secret) as opened:
        yield opened


async def test_documents_are_added_listed_searched_and_removed(http: httpx.AsyncClient):
    added = (await http.post(PATH, json=POOL)).json()
    assert (added["outcome"], added["document"]["title"], added["document"]["kind"]) == (
        "added",
        "The pool",
        "markdown",
    )
    assert (await http.post(PATH, json=POOL)).json()["outcome"] == "unchanged"
    page = b"<title>Refunds</title><p>Unused tickets are refunded."
    uploaded = (await http.post(f"{PATH}/upload", files={"file": ("refunds.html", page)})).json()
    assert (uploaded["document"]["name"], uploaded["document"]["kind"]) == ("refunds.html", "html")
    named = await http.post(f"{PATH}/upload", files={"file": ("x.txt", b"Lockers cost 1 dollar.")}, data={"name": "a"})
    assert named.json()["document"]["name"] == "a"
    first = (await http.get(PATH, params={"limit": 2})).json()
    assert ([one["name"] for one in first["documents"]], first["next"]) == (["a", "pool.md"], "pool.md")
    rest = (await http.get(PATH, params={"after": first["next"], "limit": 2})).json()
    assert ([one["name"] for one in rest["documents"]], rest["next"]) == (["refunds.html"], None)
    found = (await http.post(f"{PATH}/search", json={"text": "When does the pool open?", "limit": 1})).json()
    assert [(one["name"], one["heading"]) for one in found["passages"]] == [("pool.md", "The pool › Hours")]
    removed = await http.delete(f"{PATH}/{added['document']['id']}")
    assert (removed.status_code, removed.content) == (204, b"")
    assert (await http.post(f"{PATH}/search", json={"text": "When does the pool open?"})).json() == {"passages": []}


async def test_another_workspaces_document_is_one_that_does_not_exist(
    http: httpx.AsyncClient, gateway: Running, backend: Backend
):
    known = (await http.post(PATH, json=POOL)).json()["document"]["id"]
    key = await backend.client("globex").gateway_keys.create("theirs", scopes=SCOPES)
    async with gateway.http(key.secret) as theirs:
        assert (await theirs.get(PATH)).json()["documents"] == []
        assert (await theirs.post(f"{PATH}/search", json={"text": "the pool opens"})).json() == {"passages": []}
        answers = [await theirs.delete(f"{PATH}/{one}") for one in (known, uuid4())]
        assert [answer.status_code for answer in answers] == [404, 404]
    assert len((await http.get(PATH)).json()["documents"]) == 1


async def test_a_key_that_asks_does_not_change_documents(gateway: Running, client: Client):
    key = await client.gateway_keys.create("app", scopes=[Scope.GENERATE, Scope.READ])
    async with gateway.http(key.secret) as http:
        assert (await http.post(PATH, json=POOL)).status_code == 403
        assert (await http.delete(f"{PATH}/{uuid4()}")).status_code == 403
        assert (await http.get(PATH)).status_code == 200


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"name": "a.md", "text": " "}, "has no text"),
        ({"name": " ", "text": "x"}, "name"),
        ({"name": "a.md", "text": "a\x00b"}, "text"),
        ({"name": "a.pdf", "text": "no PDF"}, "is not a PDF"),
    ],
)
async def test_a_bad_document_is_refused(body: dict[str, str], problem: str, http: httpx.AsyncClient):
    answer = await http.post(PATH, json=body)
    assert answer.status_code in (400, 422)
    assert problem in answer.json()["detail"]


async def test_an_upload_without_a_file_is_refused(http: httpx.AsyncClient):
    answer = await http.post(f"{PATH}/upload", files={"name": (None, "a.md")})
    assert answer.status_code in (400, 422)
    assert "file" in answer.json()["detail"]
