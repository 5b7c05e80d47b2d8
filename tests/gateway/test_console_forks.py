"""A run is repeated and compared in a browser: for operators, readers, other workspaces and on a telephone."""

from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from playwright.async_api import APIResponse, Browser, Page, expect

from parley import Backend, Client, Scope
from parley.client.auto_analyze import AutoAnalyzeHandle
from tests.client.test_label_maps import HOSTILE
from tests.gateway.parts import Running
from tests.gateway.test_console import PHONE, browser, check_width, key, sign_in, visiting
from tests.workflows.test_auto_analyze import chats, path, start

__all__ = ["browser", "key", "path"]
REFUSED = [
    ({"budget": "3"}, "name another model"),
    ({"model": "gpt-9000"}, "no provider has a price"),
    ({"model": "gpt-4o", "budget": "a lot"}, "must be an amount in USD"),
    ({"model": "gpt-4o", "budget": "-1"}, "budget_usd"),
    ({"model": "gpt-4o", "budget": "NaN"}, "budget_usd"),
    ({"provider": "telepathy"}, "choose one of the list"),
]


def address(job: AutoAnalyzeHandle, part: str) -> str:
    return f"/console/{part}/{quote(job.id, safe='')}"


async def post(page: Page, gateway: Running, job: AutoAnalyzeHandle, form: dict[str, Any]) -> APIResponse:
    return await page.request.post(address(job, "fork"), form=form, headers={"origin": gateway.url})


@pytest.mark.usefixtures("worker")
async def test_a_run_is_repeated_and_compared_with_the_keyboard_on_a_telephone(
    browser: Browser, gateway: Running, client: Client, key: str, path: Path
):
    first = await start(client, path, chats(40), provider="openai", instructions="Keep refunds apart.\nAnd bills.")
    await first.result()
    async with visiting(browser, gateway, viewport=PHONE) as page:
        await sign_in(page, key, address(first, "jobs"))
        assert await page.get_by_role("link", name="Compare").count() == 0
        await page.get_by_role("link", name="Repeat").press("Enter")
        await expect(page.get_by_label("Instructions")).to_have_value("Keep refunds apart.\nAnd bills.")
        await check_width(page)
        await page.get_by_label("Instructions").fill(HOSTILE)
        await page.get_by_label("Provider", exact=True).select_option("openai")
        await page.get_by_label("Model").fill("gpt-4o")
        await page.get_by_label("Budget in USD").fill("3.00")
        await page.get_by_role("button", name="Label the sessions again").press("Enter")
        await page.wait_for_url("**/console/jobs/**")
        [second] = [job for job in await client.jobs(kind="AutoAnalyze") if job.job_key != first.job_key]
        await (await client.job(second.job_key)).result()
        await page.reload()
        await check_width(page)
        await page.get_by_role("link", name="Compare with the run it repeats").press("Enter")
        both = page.get_by_role("region", name="Both runs")
        await expect(both).to_contain_text("gpt-4o")
        await expect(both).to_contain_text(HOSTILE)
        await expect(both).to_contain_text("Keep refunds apart.")
        await check_width(page)
        assert await page.title() != "owned"


@pytest.mark.usefixtures("worker")
async def test_what_cannot_be_repeated_is_refused_and_stays_in_the_form(
    browser: Browser, gateway: Running, client: Client, backend: Backend, key: str, path: Path
):
    first = await start(client, path, chats(40), provider="openai")
    await first.result()
    async with visiting(browser, gateway) as page:
        await sign_in(page, key, address(first, "fork"))
        token = await page.locator("main [name=form_token]").input_value()
        for given, words in REFUSED:
            answer = await post(page, gateway, first, {"form_token": token, **given})
            shown = await answer.text()
            assert (answer.status, words in shown) == (400, True), shown
            assert all(f'value="{typed}"' in shown for typed in given.values() if typed != "telepathy")
        assert (await post(page, gateway, first, {"model": "gpt-4o"})).status == 403  # without the token of the sign-in
    reader = await client.gateway_keys.create("reader", scopes=[Scope.READ])
    async with visiting(browser, gateway) as page:
        await sign_in(page, reader.secret, address(first, "fork"))
        await expect(page.get_by_text("can repeat it")).to_be_visible()
        token = await page.locator("[name=form_token]").first.input_value()
        assert (await post(page, gateway, first, {"form_token": token, "model": "gpt-4o"})).status == 403
    other = await backend.client(f"other-{uuid4().hex[:8]}").gateway_keys.create("theirs", scopes=tuple(Scope))
    async with visiting(browser, gateway) as page:
        await sign_in(page, other.secret)
        for part in (address(first, "fork"), f"{address(first, 'comparison')}?with={quote(first.job_key)}"):
            assert (await page.request.get(part)).status == 404
    assert len(await client.jobs(kind="AutoAnalyze")) == 1
