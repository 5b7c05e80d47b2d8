"""`client.gateway_keys`: the keys with which programs reach a workspace through the gateway."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from parley.client.backend import Backend
from parley.client.reading import first_problem
from parley.domain.errors import InvalidInput
from parley.domain.gateway_keys import (
    DEFAULT_CONCURRENT_STREAMS,
    DEFAULT_REQUESTS_PER_MINUTE,
    DEFAULT_SCOPES,
    MOST_CONCURRENT_STREAMS,
    MOST_REQUESTS_PER_MINUTE,
    PREFIX_CHARACTERS,
    GatewayKey,
    NewGatewayKey,
    Scope,
)
from parley.domain.generate.contract import Mode
from parley.domain.model import Model, Name
from parley.storage import gateway_keys


class _Given(Model):
    name: Name
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    requests_per_minute: int = Field(ge=1, le=MOST_REQUESTS_PER_MINUTE)
    concurrent_streams: int = Field(ge=1, le=MOST_CONCURRENT_STREAMS)
    mode: Mode | None


class GatewayKeys:
    """The keys of a workspace. A key decides the workspace of every request that is made with it."""

    def __init__(self, backend: Backend, workspace_id: str) -> None:
        self._database, self._workspace_id = backend.database, workspace_id

    async def create(
        self,
        name: str,
        *,
        scopes: Collection[Scope] = DEFAULT_SCOPES,
        expires_in: timedelta | None = None,
        requests_per_minute: int = DEFAULT_REQUESTS_PER_MINUTE,
        concurrent_streams: int = DEFAULT_CONCURRENT_STREAMS,
        mode: Mode | None = None,
    ) -> NewGatewayKey:
        """Make a key.

        Args:
            name: what the key is for, up to 200 characters.
            scopes: its rights; default: `generate`, `jobs` and `read`.
            expires_in: how long it is valid; default: until it is revoked.
            requests_per_minute: the most requests in a minute, over all gateway processes; default 600.
            concurrent_streams: the most open streams in one gateway process; default 50.
            mode: how its generations run, where a request does not choose; default: as the action's policy says.

        Returns:
            The key with its secret, which cannot be read again.

        Raises:
            InvalidInput: an argument is not valid; the error names it.
        """
        try:
            given = _Given(
                name=name,
                scopes=tuple(scope for scope in Scope if scope in TypeAdapter(set[Scope]).validate_python(set(scopes))),
                requests_per_minute=requests_per_minute,
                concurrent_streams=concurrent_streams,
                mode=mode,
            )
        except ValidationError as error:
            raise first_problem(error, where="gateway key") from None
        now = datetime.now(UTC)
        secret = f"parley_{secrets.token_urlsafe(32)}"
        key = GatewayKey(
            key_id=f"key-{secrets.token_hex(6)}",
            workspace_id=self._workspace_id,
            prefix=secret[:PREFIX_CHARACTERS],
            created_at=now,
            expires_at=None if expires_in is None else _end(now, expires_in),
            **given.model_dump(),
        )
        async with self._database.transaction() as tx:
            await gateway_keys.create(tx, key, secret)
        return NewGatewayKey(**key.model_dump(), secret=secret)

    async def list(self) -> list[GatewayKey]:
        """The keys, the newest first; also revoked and expired ones."""
        async with self._database.transaction() as tx:
            return await gateway_keys.list_keys(tx, self._workspace_id)

    async def revoke(self, key_id: str) -> None:
        """End a key. Every gateway process refuses it within seconds.

        Args:
            key_id: from `create` or `list`.

        Raises:
            NotFound: the workspace has no such key.
        """
        async with self._database.transaction() as tx:
            await gateway_keys.revoke(tx, self._workspace_id, key_id)


def _end(now: datetime, expires_in: timedelta) -> datetime:
    try:
        end = now + expires_in
    except OverflowError:
        end = now
    if end <= now:
        raise InvalidInput("must be in the future, for example 90 days", where="gateway key", field="expires_in")
    return end
