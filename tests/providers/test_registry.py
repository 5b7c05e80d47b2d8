import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from parley.domain.configuration import Reference
from parley.domain.errors import AuthenticationFailed, ProviderNotConfigured, ProviderUnavailable
from parley.domain.requests import ChatReply, Provider
from parley.providers import registry
from parley.providers.registry import Access
from tests.parts import ROOT
from tests.providers.vendors import (
    ALL,
    CHAT,
    KEY,
    MODEL,
    Stub,
    answering,
    good_body,
    providers,
    question,
    real,
    settings,
    simulated,
)

URL = "http://127.0.0.1:1/"
ACME_KEY, GLOBEX_KEY = "sk-acme-0123456789", "sk-globex-0123456789"
ACME, GLOBEX = Reference(env="ACME_API_KEY"), Reference(file="globex")


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
async def test_the_simulator_replaces_a_vendor_without_a_key_and_is_marked(provider: Provider, path: str):
    found = await access(provider, simulator_url=URL)
    assert found is not None
    assert (found.base_url, found.simulated) == (f"{URL}{path}", True)


@pytest.mark.parametrize("provider", [Provider.OPENAI, Provider.ANTHROPIC, Provider.ELEVENLABS])
async def test_with_a_key_the_real_vendor_is_called(provider: Provider):
    found = await access(provider, simulator_url=URL, **{f"{provider}_api_key": KEY})
    assert found is not None
    assert (found.base_url, found.simulated) == (None, False)


async def test_the_simulator_never_replaces_a_local_server():
    assert await access(Provider.LOCAL, simulator_url=URL) is None


async def test_an_access_does_not_print_its_key():
    found = await access(Provider.OPENAI, openai_api_key=KEY)
    assert KEY not in f"{found} {found!r}"


async def test_a_process_has_one_client_for_each_provider():
    async with providers(real(URL)) as opened:
        assert opened.adapter(Provider.OPENAI) is opened.adapter(Provider.OPENAI)
        assert opened.adapter(Provider.OPENAI) is not opened.adapter(Provider.LOCAL)


@pytest.mark.parametrize("provider", ALL)
async def test_close_closes_the_connections(provider: Provider):
    async with answering(good_body(provider)) as stub:
        async with providers(real(stub.url)) as opened:
            adapter = opened.adapter(provider)
            await adapter.call(question(provider), MODEL, "attempt-1")
        with pytest.raises((RuntimeError, ProviderUnavailable)):
            await adapter.call(question(provider), MODEL, "attempt-2")
    assert len(stub.requests) == 1


def test_a_process_imports_only_the_sdk_that_it_uses():
    script = (
        "import json, sys\n"
        "from parley.domain.requests import Provider\n"
        "from parley.providers.registry import Providers\n"
        "from parley.settings import Settings\n"
        f"Providers(Settings(openai_api_key={KEY!r})).adapter(Provider.OPENAI)\n"
        "print(json.dumps([name for name in ('openai', 'anthropic', 'elevenlabs') if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == ["openai"]


def test_an_sdk_is_not_imported_on_the_event_loop():
    """Its import takes seconds: heartbeats and leases would not be renewed meanwhile."""
    script = (
        "import asyncio, sys, threading\n"
        "from parley.domain.requests import Provider\n"
        "from parley.providers.registry import Providers\n"
        "from parley.settings import Settings\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'openai':\n"
        "            print(threading.current_thread() is threading.main_thread())\n"
        "sys.meta_path.insert(0, Watch())\n"
        "async def main():\n"
        f"    providers = Providers(Settings(openai_api_key={KEY!r}))\n"
        "    await providers.load(Provider.OPENAI)\n"
        "    providers.adapter(Provider.OPENAI)\n"
        "asyncio.run(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["False"]


async def test_simulated_settings_reach_the_simulator_as_every_provider():
    async with providers(simulated(URL.rstrip("/"))) as opened:
        assert all(opened.access(provider) for provider in ALL)


@pytest.fixture
def own_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Two workspaces with their own keys, and the setting by which they are found."""
    monkeypatch.setenv("ACME_API_KEY", ACME_KEY)
    (tmp_path / "globex").write_text(GLOBEX_KEY)
    return {"secrets_dir": tmp_path}


def keys_sent(stub: Stub, provider: Provider) -> list[str]:
    header = "xi-api-key" if provider is Provider.ELEVENLABS else "authorization"
    return [received.headers[header].removeprefix("Bearer ") for received in stub.requests]


@pytest.mark.parametrize("provider", ALL)
async def test_each_workspace_uses_its_own_key(provider: Provider, own_keys: dict[str, Any]):
    async with answering(good_body(provider)) as stub, providers(real(stub.url, **own_keys)) as opened:
        for reference in (ACME, None, GLOBEX):
            await opened.adapter(provider, reference).call(question(provider), MODEL, "attempt")
    assert keys_sent(stub, provider) == [ACME_KEY, KEY, GLOBEX_KEY]


@pytest.fixture
def operators_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the SDKs read from the environment by themselves, and send."""
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(name, "operators-account")
    for vendor in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{vendor}_CUSTOM_HEADERS", "X-Gateway: operators-gateway\nAuthorization: operators-pass")


@pytest.mark.usefixtures("operators_account")
@pytest.mark.parametrize("provider", CHAT)
async def test_the_operators_account_is_not_sent_with_a_workspaces_key(provider: Provider, own_keys: dict[str, Any]):
    async with answering(good_body(provider)) as stub, providers(real(stub.url, **own_keys)) as opened:
        await opened.adapter(provider, ACME).call(question(provider), MODEL, "attempt")
    [received] = stub.requests
    assert "operators-" not in str(received.headers)
    assert ACME_KEY in str(received.headers)


@pytest.mark.usefixtures("operators_account")
async def test_the_openai_account_is_not_sent_to_a_local_server():
    async with answering(good_body(Provider.LOCAL)) as stub, providers(real(stub.url)) as opened:
        await opened.adapter(Provider.LOCAL).call(question(Provider.LOCAL), MODEL, "attempt")
    assert "operators-" not in str(stub.requests[0].headers)


@pytest.mark.usefixtures("operators_account")
async def test_the_operators_account_is_not_sent_to_the_simulator():
    async with answering(good_body(Provider.OPENAI)) as stub, providers(simulated(stub.url)) as opened:
        await opened.adapter(Provider.OPENAI).call(question(Provider.OPENAI), MODEL, "attempt")
    assert "operators-" not in str(stub.requests[0].headers)


async def test_the_operators_account_is_sent_with_the_operators_key(
    monkeypatch: pytest.MonkeyPatch, own_keys: dict[str, Any]
):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-7")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-7")
    for vendor in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{vendor}_CUSTOM_HEADERS", "X-Gateway: gate-7")
    monkeypatch.setenv("ACME_API_KEY", KEY)  # a workspace may well be given the same key
    async with answering(good_body(Provider.OPENAI)) as stub, providers(real(stub.url, **own_keys)) as opened:
        for reference in (ACME, None):
            await opened.adapter(Provider.OPENAI, reference).call(question(Provider.OPENAI), MODEL, "attempt")
    names = ("openai-organization", "openai-project", "x-gateway")
    assert [[received.headers.get(name) for name in names] for received in stub.requests] == [
        [None, None, None],
        ["org-7", "proj-7", "gate-7"],
    ]
    async with answering(good_body(Provider.ANTHROPIC)) as stub, providers(real(stub.url)) as opened:
        await opened.adapter(Provider.ANTHROPIC).call(question(Provider.ANTHROPIC), MODEL, "attempt")
    assert stub.requests[0].headers["x-gateway"] == "gate-7"


@pytest.mark.parametrize(
    ("provider", "host"),
    [
        (Provider.OPENAI, "api.openai.com"),
        (Provider.ANTHROPIC, "api.anthropic.com"),
        (Provider.ELEVENLABS, "api.elevenlabs.io"),
    ],
)
async def test_an_empty_address_is_the_vendors_default(provider: Provider, host: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(f"{provider.name}_BASE_URL", "")  # as a compose file has it
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with answering(status=403) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with providers(settings(**{f"{provider}_api_key": KEY})) as opened:
            with pytest.raises(ProviderUnavailable):
                await opened.adapter(provider).call(question(provider), MODEL, "attempt")
    assert [received.path for received in proxy.requests] == [f"{host}:443"]


async def test_a_workspaces_key_calls_the_real_vendor_while_the_fleet_uses_the_simulator(own_keys: dict[str, Any]):
    async with providers(simulated(URL, **own_keys)) as opened:
        for provider, simulated_ in ((Provider.OPENAI, True), (Provider.LOCAL, False)):
            fleet, own = opened.access(provider), opened.access(provider, ACME)
            assert fleet is not None
            assert own is not None
            assert (fleet.simulated, own.simulated) == (simulated_, False)
            assert own.api_key.get_secret_value() == ACME_KEY


async def test_a_key_for_a_local_server_needs_an_address(own_keys: dict[str, Any]):
    async with providers(settings(**own_keys)) as opened:
        assert opened.access(Provider.LOCAL, ACME) is None
        with pytest.raises(ProviderNotConfigured, match="set LOCAL_BASE_URL"):
            opened.adapter(Provider.LOCAL, ACME)


@pytest.mark.parametrize("provider", ALL)
async def test_the_fleets_key_never_replaces_a_missing_one(provider: Provider):
    async with providers(real(URL)) as opened:
        for ask in (opened.access, opened.adapter):
            with pytest.raises(ProviderNotConfigured, match="ACME_API_KEY is not set"):
                ask(provider, ACME)


async def test_each_key_has_one_client(own_keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    async with providers(real(URL, **own_keys)) as opened:
        own = opened.adapter(Provider.OPENAI, ACME)
        assert own is opened.adapter(Provider.OPENAI, Reference(env="ACME_API_KEY"))
        assert own is not opened.adapter(Provider.OPENAI)
        assert own is not opened.adapter(Provider.OPENAI, GLOBEX)
        monkeypatch.setenv("ACME_API_KEY", GLOBEX_KEY)
        assert opened.adapter(Provider.OPENAI, ACME) is opened.adapter(Provider.OPENAI, GLOBEX)


async def test_a_replaced_key_is_not_used_again(own_keys: dict[str, Any], tmp_path: Path):
    async with answering(good_body(Provider.OPENAI)) as stub, providers(real(stub.url, **own_keys)) as opened:
        for key in (GLOBEX_KEY, "sk-globex-rotated"):
            (tmp_path / "globex").write_text(key)
            await opened.adapter(Provider.OPENAI, GLOBEX).call(question(Provider.OPENAI), MODEL, "attempt")
    assert keys_sent(stub, Provider.OPENAI) == [GLOBEX_KEY, "sk-globex-rotated"]


@asynccontextmanager
async def answering_late(release: asyncio.Event) -> AsyncIterator[tuple[Stub, asyncio.Event]]:
    """A vendor that answers when a test says so."""
    async with answering(good_body(Provider.OPENAI)) as stub:
        received = asyncio.Event()

        async def later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.set()
            await release.wait()
            await stub.answer(reader, writer)

        server = await asyncio.start_server(later, "127.0.0.1", 0)
        stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield stub, received


@pytest.fixture
def is_closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[bool]]:
    """Whether each SDK client, in the order of creation, has closed its connections."""
    built: list[Any] = []
    build = registry._build
    monkeypatch.setattr(registry, "_build", lambda *given: built.append(build(*given)) or built[-1])
    return lambda: [adapter._client.is_closed() for adapter in built]


async def test_the_least_recently_used_client_finishes_its_call_and_can_reopen(
    own_keys: dict[str, Any], is_closed: Callable[[], list[bool]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registry, "MOST_ADAPTERS", 1)
    release = asyncio.Event()
    async with answering_late(release) as (stub, received), providers(real(stub.url, **own_keys)) as opened:
        first = opened.adapter(Provider.OPENAI, ACME)
        under_way = asyncio.create_task(first.call(question(Provider.OPENAI), MODEL, "attempt-1"))
        await received.wait()
        assert opened.adapter(Provider.OPENAI, GLOBEX) is not first
        await asyncio.gather(*opened._leaving)
        assert is_closed() == [False, False], "a call is under way"
        release.set()
        assert isinstance(await under_way, ChatReply)
        assert is_closed() == [True, False]
        assert isinstance(await first.call(question(Provider.OPENAI), MODEL, "attempt-2"), ChatReply)
        assert is_closed() == [True, False, True]
        assert opened.adapter(Provider.OPENAI, ACME) is not first, "it was forgotten"
    assert keys_sent(stub, Provider.OPENAI) == [ACME_KEY] * 2


async def test_the_number_of_open_clients_is_limited(
    own_keys: dict[str, Any], is_closed: Callable[[], list[bool]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registry, "MOST_ADAPTERS", 3)
    async with providers(real(URL, **own_keys)) as opened:
        for number in range(10):
            monkeypatch.setenv("ACME_API_KEY", f"sk-acme-{number}")
            opened.adapter(Provider.OPENAI, ACME)
        await asyncio.gather(*opened._leaving)
        assert is_closed() == [True] * 7 + [False] * 3
        opened.adapter(Provider.OPENAI, GLOBEX)
    assert is_closed() == [True] * 11


@pytest.mark.parametrize("provider", ALL)
async def test_a_workspaces_key_is_in_no_error_or_log(
    provider: Provider, own_keys: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    said = {"error": {"message": f"Incorrect API key provided: {ACME_KEY}", "type": "authentication_error"}}
    async with answering(said, status=401) as stub, providers(real(stub.url, **own_keys)) as opened:
        adapter = opened.adapter(provider, ACME)
        with pytest.raises(AuthenticationFailed) as refused:
            await adapter.call(question(provider), MODEL, "attempt")
        text = f"{refused.value} {refused.value!r} {adapter!r} {opened.access(provider, ACME)!r} {vars(opened)!r}"
    assert keys_sent(stub, provider) == [ACME_KEY]
    assert ACME_KEY not in text + caplog.text
