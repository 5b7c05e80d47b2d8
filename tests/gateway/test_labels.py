"""Labels over HTTP and in a browser: shown, changed, reviewed; for readers, other workspaces and on a telephone."""

from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from playwright.async_api import Browser, expect

from parley import Backend, Client, Scope
from tests.client.test_label_maps import HOSTILE, fill
from tests.gateway.parts import Running
from tests.gateway.test_console import PHONE, browser, check_width, key, sign_in, visiting
from tests.workflows.test_auto_analyze import chats, path, start
from tests.workflows.test_auto_analyze_control import held

__all__ = ["browser", "key", "path"]
LABELS = "/api/jobs/run/labels"


async def labels(http: httpx.AsyncClient) -> dict[str, int]:
    view = (await http.get(LABELS, params={"kind": "intent"})).json()
    return {one["label"]: one["sessions"] for one in view["labels"]}


async def test_labels_are_shown_and_changed_in_versions(http: httpx.AsyncClient, client: Client, backend: Backend):
    await fill(client, backend)
    view = (await http.get(LABELS)).json()
    assert view["version"] == 2
    assert {one["label"] for one in view["labels"][0]["merged"]} == {"bill", "invoice", "invoices"}
    changes: list[tuple[str, dict[str, Any]]] = [
        ("rename", {"label": "refund", "name": HOSTILE, "version": 2}),
        ("merge", {"label": "parcel", "into": HOSTILE, "reason": "one team"}),
        ("split", {"label": "billing", "out": ["bill"]}),
        ("undo", {}),
    ]
    for change, body in changes:
        answer = await http.post(f"{LABELS}/{change}", json=body)
        assert (answer.status_code, answer.json()["action"]) == (200, change), answer.text
    assert await labels(http) == {"billing": 4, HOSTILE: 4, "unclassified": 1}
    versions = (await http.get(f"{LABELS}/history")).json()["versions"]
    assert [one["made_by"] for one in versions] == ["run"] * 3 + ["key tests"] * 4


@pytest.mark.parametrize(
    ("change", "body", "status", "words"),
    [
        ("merge", {"label": "parcel", "into": "refund", "version": 1}, 409, "have version 2, not 1"),
        ("merge", {"label": "rocket", "into": "refund"}, 404, "no label 'rocket'"),
        ("rename", {"label": "parcel", "name": "Refund"}, 400, "is another label"),
        ("split", {"label": "parcel", "out": []}, 400, "out"),
        ("undo", {"all": True}, 400, "all"),
        ("approve", {"rejected": [{"label": "bill", "into": "billing"}]}, 400, "does not wait for a review"),
    ],
)
async def test_what_cannot_be_changed_is_refused(
    http: httpx.AsyncClient,
    client: Client,
    backend: Backend,
    change: str,
    body: dict[str, Any],
    status: int,
    words: str,
):
    await fill(client, backend)
    answer = await http.post(f"{LABELS}/{change}", json=body)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text
    assert len((await http.get(f"{LABELS}/history")).json()["versions"]) == 3


async def test_readers_and_other_workspaces_change_nothing(gateway: Running, client: Client, backend: Backend):
    await fill(client, backend)
    reader = await client.gateway_keys.create("reader", scopes=[Scope.READ])
    other = await backend.client(f"other-{uuid4().hex[:8]}").gateway_keys.create("theirs")
    body = {"label": "parcel", "into": "refund"}
    async with gateway.http(reader.secret) as http:
        assert (await http.get(LABELS)).status_code == 200
        assert (await http.post(f"{LABELS}/merge", json=body)).status_code == 403
    async with gateway.http(other.secret) as http:
        for answer in (await http.get(LABELS), await http.post(f"{LABELS}/merge", json=body)):
            assert (answer.status_code, "billing" in answer.text) == (404, False)


@pytest.mark.usefixtures("worker")
async def test_merges_are_reviewed_with_the_keyboard_on_a_telephone(
    browser: Browser, gateway: Running, client: Client, key: str, path: Path
):
    job = await start(client, path, chats(90), review=True, reassign=False)
    await held(job, "review")
    view = await job.labels.show()
    first = next(one for one in view.labels if one.merged)
    await job.labels.rename(first.label, HOSTILE, kind=first.kind)
    address = f"/console/review/{quote(job.id, safe='')}"
    reader = await client.gateway_keys.create("reader", scopes=[Scope.READ])
    async with visiting(browser, gateway) as page:
        await sign_in(page, reader.secret, address)
        await expect(page.get_by_text("for you until")).to_be_visible()
        assert await page.locator("main form").count() == 0
        token = await page.locator("[name=form_token]").first.input_value()
        form: dict[str, Any] = {"form_token": token, "version": "2"}
        answer = await page.request.post(address, form=form, headers={"origin": gateway.url})
        assert answer.status == 403
    async with visiting(browser, gateway, viewport=PHONE) as page:
        await sign_in(page, key, f"/console/jobs/{quote(job.id, safe='')}")
        await check_width(page)
        await page.get_by_role("link", name="Review the merges").press("Enter")
        await expect(page.locator("legend").first).to_have_text(HOSTILE)
        await check_width(page)
        assert await page.locator("main img, main script").count() == 0
        answer = await page.request.post(address, form={"version": "2"}, headers={"origin": gateway.url})
        assert answer.status == 403  # without the token of the sign-in
        box = page.get_by_role("checkbox").first
        unticked = str(await box.get_attribute("value")).partition(":")[2]
        await box.focus()
        await page.keyboard.press("Space")
        await expect(box).not_to_be_checked()
        # Another person has changed the labels since the page that this form was on.
        token = await page.locator("main [name=form_token]").input_value()
        stale: dict[str, Any] = {"form_token": token, "version": "1"}
        answer = await page.request.post(address, form=stale, headers={"origin": gateway.url})
        assert (answer.status, "another person has changed the labels" in await answer.text()) == (409, True)
        await page.get_by_role("button", name="Approve the ticked merges").press("Enter")
        await expect(page.get_by_text("does not wait for a review")).to_be_visible()
        await expect(page.get_by_text("approved")).to_be_visible()
        await check_width(page)
        assert await page.title() != "owned"
    await job.result()
    exported = [one async for one in client.labelled_sessions(job.id)]
    found = {getattr(one, first.kind.value) for one in exported}
    assert {unticked, HOSTILE} <= found
