"""The configuration of users, cached by each worker process."""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from weakref import WeakValueDictionary

from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.configuration import PROFILE, Configuration, Profile, read_configuration
from parley.storage import configuration as storage
from parley.storage.configuration import Glance, Version
from parley.storage.driver import fetch

CACHE_SECONDS = 300.0
CACHE_SIZE = 1000

# A workspace and a user of it.
Key = tuple[str, str]


@dataclass(frozen=True)
class Loaded:
    """A user's configuration, with a warning for each stored field that is invalid."""

    configuration: Configuration
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    loaded: Loaded
    version: Version
    expires_at: float


class Configurations:
    """The configurations that one worker has loaded. `seconds`: how long an entry is valid."""

    def __init__(self, seconds: float = CACHE_SECONDS) -> None:
        self._seconds = seconds
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._loading: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def get(self, tx: AsyncSession, workspace_id: str, user_id: str, current: Glance | None = None) -> Loaded:
        """A user's current configuration.

        It costs one SELECT by primary key in the caller's transaction. The SELECT returns the energy account, so that
        the profile is exact, and the version of the sections, so that a change or `parley config refresh` reaches
        every worker with its next request. The sections are loaded with one more SELECT, when their version changed or
        the entry expired. `current`: the result of the first SELECT, if the caller has it.
        """
        key = (workspace_id, user_id)
        current = current or await fetch(tx, storage.look(*key))
        if cached := self._cached(key, current):
            return cached
        # Among concurrent requests, one loads.
        async with self._loading.setdefault(key, asyncio.Lock()):
            return self._cached(key, current) or await self._load(tx, key)

    def _cached(self, key: Key, current: Glance) -> Loaded | None:
        entry = self._entries.get(key)
        if entry is None or time.monotonic() >= entry.expires_at or current.version != entry.version:
            return None
        self._entries.move_to_end(key)
        profile = Profile.model_validate(current.profile)
        return Loaded(entry.loaded.configuration.model_copy(update={PROFILE: profile}), entry.loaded.warnings)

    async def _load(self, tx: AsyncSession, key: Key) -> Loaded:
        stored = await storage.load(tx, *key)
        loaded = Loaded(*read_configuration(stored.sections))
        self._entries[key] = _Entry(loaded, stored.version, time.monotonic() + self._seconds)
        if len(self._entries) > CACHE_SIZE:
            self._entries.popitem(last=False)
        return loaded
