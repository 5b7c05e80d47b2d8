"""The task queues, and the fairness key that divides each queue between workspaces."""

import hashlib

from parley.domain.requests import Provider

WORKFLOWS = "parley"
STORAGE = "parley-storage"
ACOUSTICS = "parley-acoustics"
# Temporal's limit for a fairness key.
FAIRNESS_KEY_BYTES = 64


def provider_queue(provider: Provider) -> str:
    """The provider's own queue: the server limits its rate for all workers together."""
    return f"parley-{provider.value}"


def fairness_key(workspace_id: str) -> str:
    """The fairness key of a workspace: its id, or the id's SHA-256 where the id is longer than Temporal accepts."""
    encoded = workspace_id.encode()
    return workspace_id if len(encoded) <= FAIRNESS_KEY_BYTES else hashlib.sha256(encoded).hexdigest()
