"""Which providers this process can reach, and one client for each key, made when it is first needed."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

from pydantic import SecretStr

from parley.domain.configuration import Reference
from parley.domain.errors import ProviderNotConfigured
from parley.domain.requests import Provider
from parley.providers.kept import KeptAdapter
from parley.providers.keys import read_key
from parley.providers.protocol import Adapter
from parley.settings import Settings

# Local servers and the simulator want a key to be present, not to be right.
ANY_KEY = SecretStr("no-key-needed")
# Beyond these, the client that was not used for longest is put away.
MOST_ADAPTERS = 100


@dataclass(frozen=True)
class Access:
    """How to reach a provider.

    `simulated`: the simulator answers in its place. `with_account`: the key is the environment's own, so what the SDK
    finds there of the same account (organisation, project, headers) goes with it.
    """

    api_key: SecretStr
    base_url: str | None
    model: str
    simulated: bool
    with_account: bool = False


class Providers:
    """The adapters of one process: the fleet's own, and those of workspaces that bring their own keys."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._adapters: OrderedDict[tuple[Provider, Access], KeptAdapter] = OrderedDict()
        self._leaving: set[asyncio.Task[None]] = set()

    def access(self, provider: Provider, reference: Reference | None = None) -> Access | None:
        """The way to a provider: the key under the workspace's reference; without one the fleet's key, else the
        simulator, else none.

        Raises:
            ProviderNotConfigured: there is no key under the reference. The fleet's never stands in for it.
        """
        own_key = read_key(provider, reference, self._settings.secrets_dir) if reference else None
        fleet_key, base_url, model = self._fleet(provider)
        key = own_key or fleet_key
        if provider is Provider.LOCAL:
            return Access(key or ANY_KEY, base_url, model, simulated=False) if base_url else None
        if key is not None:
            return Access(key, base_url, model, simulated=False, with_account=own_key is None)
        simulator = self._settings.simulator_url
        if simulator is None:
            return None
        # The OpenAI SDK expects the version in its base address, the others add it.
        path = "openai/v1" if provider is Provider.OPENAI else provider.value
        return Access(ANY_KEY, f"{simulator.rstrip('/')}/{path}", model, simulated=True)

    def _fleet(self, provider: Provider) -> tuple[SecretStr | None, str | None, str]:
        """Key, address and model that the environment sets."""
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

    def adapter(self, provider: Provider, reference: Reference | None = None) -> Adapter:
        """The one client of this process for a provider and a key. It may be kept and used for as long as one likes.

        Raises:
            ProviderNotConfigured: neither a key nor an address is set, or there is no key under the reference.
        """
        access = self.access(provider, reference)
        if access is None:
            missing = (
                "address: set LOCAL_BASE_URL" if provider is Provider.LOCAL else f"key: set {provider.name}_API_KEY"
            )
            raise ProviderNotConfigured(f"{provider.value} has no {missing}")
        if (provider, access) not in self._adapters:
            self._adapters[provider, access] = KeptAdapter(partial(_build, provider, access, self._settings))
            self._make_room()
        self._adapters.move_to_end((provider, access))
        return self._adapters[provider, access]

    async def close(self) -> None:
        await asyncio.gather(*self._leaving)
        for adapter in self._adapters.values():
            await adapter.close()

    def _make_room(self) -> None:
        """A key that was replaced leaves this way as well: it is never asked for again."""
        if len(self._adapters) > MOST_ADAPTERS:
            _, idlest = self._adapters.popitem(last=False)
            leaving = asyncio.get_running_loop().create_task(idlest.put_away())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)


def _build(provider: Provider, access: Access, settings: Settings) -> Adapter:
    """SDKs take seconds to import, so a worker loads only those that it uses."""
    key, url, timeout = access.api_key.get_secret_value(), access.base_url, settings.provider_timeout_seconds
    match provider:
        case Provider.ANTHROPIC:
            from parley.providers.anthropic import AnthropicAdapter  # noqa: PLC0415

            return AnthropicAdapter(api_key=key, base_url=url, timeout=timeout, with_account=access.with_account)
        case Provider.ELEVENLABS:
            from parley.providers.elevenlabs import ElevenLabsAdapter  # noqa: PLC0415

            return ElevenLabsAdapter(api_key=key, base_url=url, timeout=timeout)
        case Provider.OPENAI | Provider.LOCAL:
            from parley.providers.openai import OpenAIAdapter  # noqa: PLC0415

            store = settings.openai_store and provider is Provider.OPENAI
            return OpenAIAdapter(
                provider, api_key=key, base_url=url, timeout=timeout, with_account=access.with_account, store=store
            )
