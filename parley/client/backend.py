"""The connections of one process, shared by the clients of many workspaces."""

from __future__ import annotations

from typing import Self

import temporalio.client

from parley.client.client import Client
from parley.client.connections import Connections
from parley.settings import Settings
from parley.storage.database import Database


class Backend:
    """Connections to Temporal and PostgreSQL that serve any number of workspaces.

    Open one per process with `async with await Backend.connect() as backend`, or build one of connections that are open
    already with `Backend(temporal, database, settings)`.
    """

    def __init__(self, temporal: temporalio.client.Client, database: Database, settings: Settings) -> None:
        self._connections = Connections(temporal, database, settings)

    @classmethod
    async def connect(cls, settings: Settings | None = None, temporal_address: str | None = None) -> Self:
        """Connect to PostgreSQL and Temporal.

        Without DATABASE_URL the addresses of the stack that `parley up` runs on this machine are used.

        Args:
            settings: default: read from the environment.
            temporal_address: `host:port`; default: TEMPORAL_ADDRESS, or a profile of Temporal's TOML configuration.

        Raises:
            InvalidInput: DATABASE_URL is missing or wrong.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        opened = await Connections.connect(settings, temporal_address)
        return cls(opened.temporal, opened.database, opened.settings)

    def client(self, workspace_id: str = "default") -> Client:
        """A client of one workspace. It shares these connections: closing it does not close them.

        Args:
            workspace_id: whose data the client reads and writes.
        """
        return Client(self._connections, workspace_id)

    async def close(self) -> None:
        """Close the database connections. The clients of this backend cannot be used any more."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
