"""Which providers this process can reach, and one client for each, made when it is first needed."""

from dataclasses import dataclass

from pydantic import SecretStr

from domain.calls import Provider
from domain.errors import ProviderNotConfigured
from providers.protocol import Adapter
from settings import Settings

# Local servers and the simulator want a key to be present, not to be right.
ANY_KEY = SecretStr("no-key-needed")


@dataclass(frozen=True)
class Access:
    """How to reach a provider. `simulated`: the simulator answers in its place."""

    api_key: SecretStr
    base_url: str | None
    model: str
    simulated: bool


class Providers:
    """The adapters of one process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._adapters: dict[Provider, Adapter] = {}

    def access(self, provider: Provider) -> Access | None:
        """The way to a provider: its key, else the simulator, else none."""
        keys = self._settings
        match provider:
            case Provider.OPENAI:
                return self._vendor(provider, keys.openai_api_key, keys.openai_base_url, keys.openai_model)
            case Provider.ANTHROPIC:
                return self._vendor(provider, keys.anthropic_api_key, keys.anthropic_base_url, keys.anthropic_model)
            case Provider.ELEVENLABS:
                return self._vendor(provider, keys.elevenlabs_api_key, keys.elevenlabs_base_url, keys.elevenlabs_model)
            case Provider.LOCAL:
                if keys.local_base_url is None:
                    return None
                return Access(keys.local_api_key or ANY_KEY, keys.local_base_url, keys.local_model, simulated=False)

    def _vendor(self, provider: Provider, key: SecretStr | None, base_url: str | None, model: str) -> Access | None:
        if key is not None:
            return Access(key, base_url, model, simulated=False)
        simulator = self._settings.parley_simulator_url
        if simulator is None:
            return None
        # The OpenAI SDK expects the version in its base address, the others add it.
        path = "openai/v1" if provider is Provider.OPENAI else provider.value
        return Access(ANY_KEY, f"{simulator.rstrip('/')}/{path}", model, simulated=True)

    def adapter(self, provider: Provider) -> Adapter:
        """The provider's one client in this process.

        Raises:
            ProviderNotConfigured: neither a key nor an address is set.
        """
        if provider not in self._adapters:
            access = self.access(provider)
            if access is None:
                raise ProviderNotConfigured(f"{provider.value} has no key: set {provider.name}_API_KEY")
            self._adapters[provider] = _build(provider, access, self._settings.provider_timeout_seconds)
        return self._adapters[provider]

    async def close(self) -> None:
        for adapter in self._adapters.values():
            await adapter.close()


def _build(provider: Provider, access: Access, timeout: float) -> Adapter:
    """SDKs take seconds to import, so a worker loads only those that it uses."""
    key, url = access.api_key.get_secret_value(), access.base_url
    match provider:
        case Provider.ANTHROPIC:
            from providers.anthropic import AnthropicAdapter  # noqa: PLC0415

            return AnthropicAdapter(api_key=key, base_url=url, timeout=timeout)
        case Provider.ELEVENLABS:
            from providers.elevenlabs import ElevenLabsAdapter  # noqa: PLC0415

            return ElevenLabsAdapter(api_key=key, base_url=url, timeout=timeout)
        case Provider.OPENAI | Provider.LOCAL:
            from providers.openai import OpenAIAdapter  # noqa: PLC0415

            return OpenAIAdapter(provider, api_key=key, base_url=url, timeout=timeout)
