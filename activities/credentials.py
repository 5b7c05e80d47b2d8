"""Where a workspace's own provider keys are, if its configuration refers to some."""

import time
from collections import OrderedDict

from parley.domain.configuration import Credentials, Reference, read_configuration
from parley.domain.requests import Provider
from parley.storage import configuration
from parley.storage.database import Database

# Long enough that a busy worker hardly reads the database, short enough that a change applies soon.
CACHE_SECONDS = 10.0
CACHE_SIZE = 1000


class WorkspaceKeys:
    """References to the keys of workspaces, cached. Never the keys: those are read from their place for each call."""

    def __init__(self, database: Database, seconds: float = CACHE_SECONDS) -> None:
        self._database, self._seconds = database, seconds
        self._entries: OrderedDict[str, tuple[float, Credentials]] = OrderedDict()

    async def of(self, workspace_id: str, provider: Provider) -> Reference | None:
        """Where the workspace's own key for a provider is; None where the fleet's key serves the workspace."""
        expires_at, credentials = self._entries.get(workspace_id, (0.0, Credentials()))
        if time.monotonic() >= expires_at:
            credentials = await self._load(workspace_id)
            self._entries[workspace_id] = (time.monotonic() + self._seconds, credentials)
            self._entries.move_to_end(workspace_id)
            if len(self._entries) > CACHE_SIZE:
                self._entries.popitem(last=False)
        return credentials.of(provider)

    async def _load(self, workspace_id: str) -> Credentials:
        async with self._database.transaction() as tx:
            stored = await configuration.load(tx, workspace_id, configuration.WORKSPACE)
        return read_configuration(stored.sections)[0].credentials
