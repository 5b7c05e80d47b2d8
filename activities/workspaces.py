"""What a workspace has configured for its paid calls: where its own keys are, and what is masked."""

import time
from collections import OrderedDict
from dataclasses import dataclass

from parley.domain.configuration import Credentials, Reference, read_configuration
from parley.domain.errors import ProviderNotConfigured
from parley.domain.masking import Personal
from parley.domain.requests import Provider
from parley.storage import configuration
from parley.storage.database import Database

# Long enough that a busy worker hardly reads the database, short enough that a change applies soon.
CACHE_SECONDS = 10.0
CACHE_SIZE = 1000


@dataclass(frozen=True)
class CallTerms:
    """How a workspace's requests are sent.

    credentials: where its own keys are. Never the keys: those are read from their place for each call.
    masked: the personal data that no provider sees.
    """

    credentials: Credentials
    masked: tuple[Personal, ...]

    def key_of(self, provider: Provider) -> Reference | None:
        """Where the workspace's own key for a provider is; None where the fleet's key serves the workspace."""
        return self.credentials.of(provider)


@dataclass(frozen=True)
class _Entry:
    terms: CallTerms
    expires_at: float


class Workspaces:
    """The terms of workspaces, cached in one process. `seconds`: how long an entry is valid."""

    def __init__(self, database: Database, seconds: float = CACHE_SECONDS) -> None:
        self._database, self._seconds = database, seconds
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    async def terms_of(self, workspace_id: str) -> CallTerms:
        """The terms of a workspace, at most `seconds` old.

        Raises:
            Unreachable: they are not cached, and the database does not answer.
        """
        entry = self._entries.get(workspace_id)
        if entry is None or time.monotonic() >= entry.expires_at:
            entry = _Entry(await self._load(workspace_id), time.monotonic() + self._seconds)
            self._entries[workspace_id] = entry
            if len(self._entries) > CACHE_SIZE:
                self._entries.popitem(last=False)
        self._entries.move_to_end(workspace_id)
        return entry.terms

    def remembered(self, workspace_id: str, provider: Provider) -> CallTerms:
        """The last known terms, while the database is down, however old they are.

        Raises:
            ProviderNotConfigured: none are known. The fleet's key must not be used by accident, nor text sent unmasked.
        """
        entry = self._entries.get(workspace_id)
        if entry is None:
            raise ProviderNotConfigured(provider.value, "the workspace's configuration cannot be read")
        return entry.terms

    async def _load(self, workspace_id: str) -> CallTerms:
        async with self._database.transaction() as tx:
            stored = await configuration.load(tx, workspace_id, configuration.WORKSPACE)
        read, _ = read_configuration(stored.sections)
        return CallTerms(read.credentials, read.privacy.mask)
