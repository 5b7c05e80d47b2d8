"""The services of the compose file as processes: each has the keys that it needs, where the host sets a key."""

import asyncio
from pathlib import Path

import httpx

from parley import Provider
from starter.embedded import Addresses
from tests.faults.gateways import start_gateway
from tests.faults.scene import Scene, scene
from tests.parts import SAMPLES, TEST_TIMEOUT_SECONDS
from tests.short_sessions import short
from tests.test_compose import SERVICES

CHATS = 12
ROLES = ("workflows", "storage", "openai")


def given(service: str, place: Scene) -> dict[str, str]:
    """What the host gives a service: the key of one provider, whose address is the simulator's."""
    host = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"{place.simulator.url}/openai/v1"}
    return {name: value for name, value in host.items() if name in SERVICES[service]["environment"]}


async def test_every_job_finds_the_provider_of_the_host(stack: Addresses, template: str, tmp_path: Path):
    async with scene(stack, template, tmp_path) as place, httpx.AsyncClient(timeout=TEST_TIMEOUT_SECONDS) as http:
        del place.environment["PARLEY_SIMULATOR_URL"]  # it would answer for every provider without a key
        for role in ROLES:
            await place.start_worker(roles=(role,), **given(role, place))
        _, url = await start_gateway(place, "gateway", **given("gateway", place))
        key = await place.client.gateway_keys.create("tests")

        answer = await place.client.generate("Which plan has SSO?", user_id="ann")
        analysis = await place.client.analyze(short(1))
        chats = tmp_path / "chats.jsonl"
        chats.write_text("".join((SAMPLES / "chats" / "support.jsonl").open().readlines()[:CHATS]))
        imported = await place.client.import_chats(chats)
        labelling = await place.client.auto_analyze(imported.dataset_id, user_id="ann")
        inline = await http.post(
            f"{url}/v1/chat/completions",
            json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Which plan has SSO?"}]},
            headers={"authorization": f"Bearer {key.secret}", "x-parley-mode": "inline"},
        )
        report, labelled = await asyncio.gather(analysis.result(), labelling.result())

        assert answer.meta.provider is Provider.OPENAI
        assert report.analysis and report.analysis.coaching.processed
        assert labelled.statistics and not labelled.statistics.fallbacks
        assert inline.status_code == 200, inline.text
        assert {one["provider"] for one in await place.simulator.requests()} == {"openai"}
