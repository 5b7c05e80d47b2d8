import json
import subprocess
import sys

import pytest

from domain.calls import Provider
from domain.errors import ProviderNotConfigured, ProviderUnavailable
from providers.registry import Access
from tests.parts import ROOT
from tests.providers.vendors import (
    ALL,
    KEY,
    MODEL,
    answering,
    good_body,
    providers,
    question,
    real,
    settings,
    simulated,
)

URL = "http://127.0.0.1:1/"


async def access(provider: Provider, **given: str) -> Access | None:
    async with providers(settings(**given)) as opened:
        return opened.access(provider)


@pytest.mark.parametrize("provider", ALL)
async def test_without_key_or_address_a_provider_is_not_configured(provider: Provider):
    async with providers(settings()) as opened:
        assert opened.access(provider) is None
        with pytest.raises(ProviderNotConfigured, match=provider.value):
            opened.adapter(provider)


@pytest.mark.parametrize(
    ("provider", "path"),
    [(Provider.OPENAI, "openai/v1"), (Provider.ANTHROPIC, "anthropic"), (Provider.ELEVENLABS, "elevenlabs")],
)
async def test_the_simulator_stands_in_for_a_vendor_without_a_key_and_is_marked(provider: Provider, path: str):
    found = await access(provider, parley_simulator_url=URL)
    assert found is not None
    assert (found.base_url, found.simulated) == (f"{URL}{path}", True)


@pytest.mark.parametrize("provider", [Provider.OPENAI, Provider.ANTHROPIC, Provider.ELEVENLABS])
async def test_a_key_means_the_real_vendor_whatever_else_is_set(provider: Provider):
    found = await access(provider, parley_simulator_url=URL, **{f"{provider}_api_key": KEY})
    assert found is not None
    assert (found.base_url, found.simulated) == (None, False)


async def test_the_simulator_never_stands_in_for_a_local_server():
    assert await access(Provider.LOCAL, parley_simulator_url=URL) is None


async def test_an_access_does_not_print_its_key():
    found = await access(Provider.OPENAI, openai_api_key=KEY)
    assert KEY not in f"{found} {found!r}"


async def test_a_process_has_one_client_for_each_provider():
    async with providers(real(URL)) as opened:
        assert opened.adapter(Provider.OPENAI) is opened.adapter(Provider.OPENAI)
        assert opened.adapter(Provider.OPENAI) is not opened.adapter(Provider.LOCAL)


@pytest.mark.parametrize("provider", ALL)
async def test_closing_gives_the_connections_back(provider: Provider):
    async with answering(good_body(provider)) as stub:
        async with providers(real(stub.url)) as opened:
            adapter = opened.adapter(provider)
            await adapter.call(question(provider), MODEL, "attempt-1")
        with pytest.raises((RuntimeError, ProviderUnavailable)):
            await adapter.call(question(provider), MODEL, "attempt-2")
    assert len(stub.asked) == 1


def test_a_process_loads_only_the_sdk_that_it_uses():
    script = (
        "import json, sys\n"
        "from domain.calls import Provider\nfrom providers.registry import Providers\nfrom settings import Settings\n"
        f"Providers(Settings(openai_api_key={KEY!r})).adapter(Provider.OPENAI)\n"
        "print(json.dumps([name for name in ('openai', 'anthropic', 'elevenlabs') if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == ["openai"]


async def test_simulated_settings_reach_the_simulator_as_every_provider():
    async with providers(simulated(URL.rstrip("/"))) as opened:
        assert all(opened.access(provider) for provider in ALL)
