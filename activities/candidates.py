"""Who may serve a chat request, found out before anything is paid."""

from collections.abc import Sequence

from activities.paid_call import PaidCalls
from domain.calls import Provider
from domain.errors import ProviderNotConfigured, UnpricedModel
from domain.routing import Option

# In order of quality; domain/routing.py ranks them.
CHAT_PROVIDERS = (Provider.ANTHROPIC, Provider.OPENAI, Provider.LOCAL)


async def chat_options(paid_calls: PaidCalls, provider: Provider | None, model: str | None) -> list[Option]:
    """The providers that could be asked, for `rank` to order. One that was asked for by name is the only one.

    Raises:
        ProviderNotConfigured, UnpricedModel: there is nobody to ask.
    """
    names = (provider,) if provider else CHAT_PROVIDERS
    options = await paid_calls.options(names, {provider: model} if provider and model else {})
    _refuse_unusable(options, by_name=provider is not None)
    return options


def _refuse_unusable(options: Sequence[Option], *, by_name: bool) -> None:
    for option in options if by_name else ():
        if option.configured and option.price is None:
            raise UnpricedModel(f"{option.provider.value} model {option.model!r} has no known price")
    if not any(option.configured and option.price is not None for option in options):
        keys = [f"{option.provider.name}_API_KEY" for option in options if option.provider is not Provider.LOCAL]
        raise ProviderNotConfigured(f"the worker has no provider to ask: set {' or '.join(keys) or 'LOCAL_BASE_URL'}")
