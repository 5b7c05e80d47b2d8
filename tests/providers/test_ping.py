"""A free request that shows whether a provider is available."""

import socket

import pytest

from parley.domain.errors import (
    AuthenticationFailed,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from parley.domain.requests import Provider
from tests.parts import SimulatorAdmin
from tests.providers.vendors import ALL, KEY, answering, providers, real, simulated

each_vendor = pytest.mark.parametrize("provider", ALL)


async def ping(url: str, provider: Provider, seconds: float = 20) -> None:
    async with providers(simulated(url, provider_timeout_seconds=seconds)) as opened:
        await opened.adapter(provider).ping()


@each_vendor
async def test_a_ping_is_free(simulator: SimulatorAdmin, provider: Provider):
    await ping(simulator.url, provider)
    assert await simulator.requests() == []


@each_vendor
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("server_error", ProviderUnavailable),
        ("overloaded", ProviderUnavailable),
        ("html", ProviderUnavailable),
        ("auth", AuthenticationFailed),
        ("rate_limit", RateLimited),
        ("cut", ProviderUnavailable),
        ("not_json", MalformedReply),
        ("hang", ProviderUnavailable),
    ],
)
async def test_a_ping_reports_an_outage(
    simulator: SimulatorAdmin, provider: Provider, fault: str, expected: type[ProviderError]
):
    await simulator.fault(fault, times=None, provider=provider)
    with pytest.raises(expected) as caught:
        await ping(simulator.url, provider, seconds=0.5 if fault == "hang" else 20)
    assert caught.value.provider == provider
    other = Provider.ANTHROPIC if provider is Provider.OPENAI else Provider.OPENAI
    await ping(simulator.url, other)


@each_vendor
async def test_a_ping_does_not_consume_a_fault(simulator: SimulatorAdmin, provider: Provider):
    await simulator.fault("server_error", provider=provider)
    await ping(simulator.url, provider)


@each_vendor
async def test_an_unreachable_provider_is_unavailable(provider: Provider):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ProviderUnavailable):
        await ping(url, provider)


@each_vendor
async def test_a_refused_key_is_reported_once_without_the_key(provider: Provider):
    async with answering({"error": {"message": f"bad key {KEY}"}}, 401) as stub, providers(real(stub.url)) as opened:
        with pytest.raises(AuthenticationFailed) as caught:
            await opened.adapter(provider).ping()
    assert KEY not in f"{caught.value} {caught.value!r}"
    [received] = stub.requests
    assert received.path.partition("?")[0].endswith("/models")
    assert received.body == b""


@each_vendor
async def test_a_ping_is_not_retried(provider: Provider):
    async with answering(b"{}", 503) as stub, providers(real(stub.url)) as opened:
        with pytest.raises(ProviderUnavailable):
            await opened.adapter(provider).ping()
    assert len(stub.requests) == 1


@each_vendor
@pytest.mark.parametrize("body", [b"pong", b"null", b'"text"', b'{"data": null}', b'{"data": "text"}'])
async def test_a_body_that_is_not_a_list_of_models_is_malformed(provider: Provider, body: bytes):
    """A proxy or a captive portal may answer 200 too."""
    async with answering(body) as stub, providers(real(stub.url)) as opened:
        with pytest.raises(MalformedReply):
            await opened.adapter(provider).ping()
