"""Which providers and models could serve a request, and what is known about them before anything is paid."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from activities.workspaces import Workspaces
from parley.domain.configuration import Credentials, Reference
from parley.domain.errors import ProviderNotConfigured, UnpricedModel
from parley.domain.pricing import ConfiguredRates, rates_for
from parley.domain.requests import CHAT_PROVIDERS, HEARING_PROVIDERS, Provider
from parley.domain.routing import Option, ProviderStatus
from parley.settings import Settings
from parley.storage import breaker
from parley.storage.breaker import Waits
from parley.storage.database import Database
from parley.storage.driver import fetch


class Access(Protocol):
    """How a provider is reached, as far as it matters here."""

    @property
    def simulated(self) -> bool: ...


NO_WAITS = Waits({}, {})
FindAccess = Callable[[Provider, Reference | None], Access | None]


class Candidates:
    """What one worker knows of the models that it can call. Nothing here is paid."""

    def __init__(self, database: Database, settings: Settings, workspaces: Workspaces, find_access: FindAccess) -> None:
        self._database, self._workspaces, self._find_access = database, workspaces, find_access
        self.rates = ConfiguredRates.of(settings)
        self._hearing = HEARING_PROVIDERS if settings.hearing == "auto" else (Provider(settings.hearing),)
        self.models = {provider: settings.model_of(provider) for provider in Provider}

    async def options(
        self, workspace_id: str, providers: Sequence[Provider], models: Mapping[Provider, str] | None = None
    ) -> list[Option]:
        """One option per provider, with the workspace's key. `models`: default to the environment's."""
        terms = await self._workspaces.terms_of(workspace_id)
        references = {provider: terms.key_of(provider) for provider in providers}
        async with self._database.transaction() as tx:
            waits = await fetch(tx, breaker.waits(workspace_id))
        return [
            self._option(
                provider,
                (models or {}).get(provider) or self.models[provider],
                self._status(provider, references[provider], waits),
            )
            for provider in providers
        ]

    async def chat_options(self, workspace_id: str, provider: Provider | None, model: str | None) -> list[Option]:
        """The providers that could answer chats. A provider that the caller named is the only one.

        Raises:
            ProviderNotConfigured, UnpricedModel: no provider can serve.
        """
        names = (provider,) if provider else CHAT_PROVIDERS
        options = await self.options(workspace_id, names, {provider: model} if provider and model else None)
        _refuse_unusable(options, by_name=provider is not None)
        return options

    async def hearing_options(self, workspace_id: str) -> list[Option]:
        """What can hear a recording, the best first: the simulator only where nothing real can."""
        options = await self.options(workspace_id, self._hearing)
        real = [option for option in options if option.is_real]
        return real or options

    def statuses(self, credentials: Credentials, waits: Waits) -> dict[Provider, ProviderStatus]:
        """The status of every chat provider, with the keys that `credentials` refer to."""
        return {provider: self._status(provider, credentials.of(provider), waits) for provider in CHAT_PROVIDERS}

    def is_simulated(self, provider: Provider, reference: Reference | None) -> bool:
        """Whether the simulator answers in the provider's place."""
        return self._status(provider, reference).simulated

    def _option(self, provider: Provider, model: str, status: ProviderStatus) -> Option:
        try:
            rates = rates_for(provider, model, self.rates) if status.configured else None
        except UnpricedModel:
            rates = None
        price = rates.input + rates.output if rates else None
        return Option(provider=provider, model=model, price=price, **status.model_dump())

    def _status(self, provider: Provider, reference: Reference | None, waits: Waits = NO_WAITS) -> ProviderStatus:
        """A workspace's own key that is missing makes the provider unconfigured: the fleet's key never replaces it."""
        try:
            access = self._find_access(provider, reference)
        except ProviderNotConfigured:
            access = None
        if access is None:
            return ProviderStatus(configured=False)
        wait = waits.of(provider, shares_key=reference is None)
        return ProviderStatus(configured=True, simulated=access.simulated, breaker_wait=wait)


def _refuse_unusable(options: Sequence[Option], *, by_name: bool) -> None:
    for option in options if by_name else ():
        if option.configured and option.price is None:
            raise UnpricedModel(f"{option.provider.value} model {option.model!r} has no known price")
    if not any(option.configured and option.price is not None for option in options):
        keys = [f"{option.provider.name}_API_KEY" for option in options if option.provider is not Provider.LOCAL]
        missing = " or ".join(keys) or "LOCAL_BASE_URL"
        raise ProviderNotConfigured(f"the worker has no provider to call: set {missing}")
