"""Whose key a call is made with: the workspace's own, where its configuration refers to one."""

import time
from collections import OrderedDict

from parley.domain.configuration import Credentials, Reference, read_configuration
from parley.domain.requests import Provider
from parley.storage import configuration
from parley.storage.database import Database

# Long enough that a busy worker hardly asks, short enough that nobody waits for a change.
KEPT_SECONDS = 10.0
MOST_KEPT = 1000


class WorkspaceKeys:
    """References to the keys of workspaces; never the keys, which are read from where they are with each call."""

    def __init__(self, database: Database, seconds: float = KEPT_SECONDS) -> None:
        self._database, self._seconds = database, seconds
        self._kept: OrderedDict[str, tuple[float, Credentials]] = OrderedDict()

    async def of(self, workspace_id: str, provider: Provider) -> Reference | None:
        """Where the workspace's own key for a provider is; None where the fleet's serves it."""
        until, found = self._kept.get(workspace_id, (0.0, Credentials()))
        if time.monotonic() >= until:
            found = await self._load(workspace_id)
            self._kept[workspace_id] = (time.monotonic() + self._seconds, found)
            self._kept.move_to_end(workspace_id)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return found.of(provider)

    async def _load(self, workspace_id: str) -> Credentials:
        async with self._database.transaction() as tx:
            stored = await configuration.load(tx, workspace_id, configuration.WORKSPACE)
        return read_configuration(stored.sections)[0].credentials
