"""The task queues: one for workflows, one for storage, one for each provider so that its rate can be limited."""

from parley.domain.requests import Provider

WORKFLOWS = "parley"
STORAGE = "parley-storage"


def provider_queue(provider: Provider) -> str:
    return f"parley-{provider.value}"
