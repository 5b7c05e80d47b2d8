"""Who may serve a chat request, found out before anything is paid."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from activities.credentials import WorkspaceKeys
from parley.domain.configuration import Credentials, Reference
from parley.domain.errors import ProviderNotConfigured, UnpricedModel
from parley.domain.pricing import ConfiguredRates, rates_for, upper_bound
from parley.domain.requests import ChatRequest, Provider
from parley.domain.routing import Fact, Option
from parley.settings import Settings
from parley.storage import breaker
from parley.storage.database import Database

# In order of quality; domain/routing.py ranks them.
CHAT_PROVIDERS = (Provider.ANTHROPIC, Provider.OPENAI, Provider.LOCAL)


class Access(Protocol):
    """A way to a provider, as far as it matters here."""

    @property
    def simulated(self) -> bool: ...


Reach = Callable[[Provider, Reference | None], Access | None]


class Candidates:
    """What one worker knows of the models that can be asked. Looking costs nothing."""

    def __init__(self, database: Database, settings: Settings, keys: WorkspaceKeys, reach: Reach) -> None:
        self._database, self._keys, self._reach = database, keys, reach
        self._rates = ConfiguredRates.of(settings)
        self.models: dict[Provider, str] = {one: getattr(settings, f"{one.value}_model") for one in Provider}

    async def options(
        self, workspace_id: str, providers: Sequence[Provider], models: Mapping[Provider, str] | None = None
    ) -> list[Option]:
        """Each provider as a way to serve a call of the workspace: with that model, else the environment's."""
        references = {provider: await self._keys.of(workspace_id, provider) for provider in providers}
        async with self._database.transaction() as tx:
            waits = await breaker.waits(tx)
        return [
            self._option(provider, (models or {}).get(provider), references[provider], waits.get(provider, 0.0))
            for provider in providers
        ]

    async def chat_options(self, workspace_id: str, provider: Provider | None, model: str | None) -> list[Option]:
        """The providers that could be asked, for `rank` to order. One that was asked for by name is the only one.

        Raises:
            ProviderNotConfigured, UnpricedModel: there is nobody to ask.
        """
        names = (provider,) if provider else CHAT_PROVIDERS
        options = await self.options(workspace_id, names, {provider: model} if provider and model else None)
        _refuse_unusable(options, by_name=provider is not None)
        return options

    async def facts(
        self, tx: AsyncSession, asked: Sequence[tuple[Provider, str]], request: ChatRequest, credentials: Credentials
    ) -> dict[tuple[Provider, str], Fact]:
        """What is known about asking each of these models for `request`, for `choose` to rank."""
        waits = await breaker.waits(tx)
        return {
            (provider, model): self._fact(provider, model, request, credentials.of(provider), waits.get(provider, 0.0))
            for provider, model in asked
        }

    def is_simulated(self, provider: Provider, reference: Reference | None) -> bool:
        access = self._access(provider, reference)
        return access is not None and access.simulated

    def _option(self, provider: Provider, model: str | None, reference: Reference | None, wait: float) -> Option:
        access, name = self._access(provider, reference), model or self.models[provider]
        if access is None:
            return Option(provider=provider, model=name, configured=False)
        try:
            rates = rates_for(provider, name, self._rates)
            price = rates.input + rates.output
        except UnpricedModel:
            price = None
        return Option(
            provider=provider,
            model=name,
            configured=True,
            price=price,
            simulated=access.simulated,
            breaker_wait=wait,
        )

    def _fact(
        self, provider: Provider, model: str, request: ChatRequest, reference: Reference | None, wait: float
    ) -> Fact:
        access = self._access(provider, reference)
        if access is None:
            return Fact(configured=False)
        try:
            bound, _ = upper_bound(provider, model, request, self._rates)
        except UnpricedModel:
            bound = None
        return Fact(configured=True, upper_bound_usd=bound, simulated=access.simulated, breaker_wait=wait)

    def _access(self, provider: Provider, reference: Reference | None) -> Access | None:
        """A workspace's own key that is not where it should be is no way to the provider; the fleet's is not its."""
        try:
            return self._reach(provider, reference)
        except ProviderNotConfigured:
            return None


def _refuse_unusable(options: Sequence[Option], *, by_name: bool) -> None:
    for option in options if by_name else ():
        if option.configured and option.price is None:
            raise UnpricedModel(f"{option.provider.value} model {option.model!r} has no known price")
    if not any(option.configured and option.price is not None for option in options):
        keys = [f"{option.provider.name}_API_KEY" for option in options if option.provider is not Provider.LOCAL]
        raise ProviderNotConfigured(f"the worker has no provider to ask: set {' or '.join(keys) or 'LOCAL_BASE_URL'}")
