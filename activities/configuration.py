"""The configuration of users, kept for a while by each worker process."""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from weakref import WeakValueDictionary

from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.configuration import PROFILE, Configuration, Profile, read_configuration
from parley.storage import configuration as storage
from parley.storage.configuration import Version

KEPT_SECONDS = 300.0
MOST_KEPT = 1000

Who = tuple[str, str]


@dataclass(frozen=True)
class Loaded:
    """A user's configuration, with a warning for each stored field that could not be used."""

    configuration: Configuration
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Kept:
    loaded: Loaded
    version: Version
    until: float


class Configurations:
    """What a worker knows of configurations. `loads` counts how often sections were read and checked."""

    def __init__(self, seconds: float = KEPT_SECONDS) -> None:
        self._seconds = seconds
        self._kept: OrderedDict[Who, _Kept] = OrderedDict()
        self._loading: WeakValueDictionary[Who, asyncio.Lock] = WeakValueDictionary()
        self.loads = 0

    async def get(self, tx: AsyncSession, workspace_id: str, user_id: str) -> Loaded:
        """A user's configuration as it is now.

        Costs one SELECT by primary key in the caller's transaction: it brings the energy account, which makes the
        profile exact, and tells whether a section was changed, so that a change or `parley config refresh` reaches
        every worker with its next call. The sections come in one more SELECT, when they changed or after `seconds`.
        """
        who = (workspace_id, user_id)
        if found := await self._still_right(tx, who):
            return found
        # Of many calls that start at once, one loads.
        async with self._loading.setdefault(who, asyncio.Lock()):
            return await self._still_right(tx, who) or await self._load(tx, who)

    async def _still_right(self, tx: AsyncSession, who: Who) -> Loaded | None:
        kept = self._kept.get(who)
        if kept is None or time.monotonic() >= kept.until:
            return None
        now = await storage.look(tx, *who)
        if now.version != kept.version:
            return None
        self._kept.move_to_end(who)
        profile = Profile.model_validate(now.profile)
        return Loaded(kept.loaded.configuration.model_copy(update={PROFILE: profile}), kept.loaded.warnings)

    async def _load(self, tx: AsyncSession, who: Who) -> Loaded:
        stored = await storage.load(tx, *who)
        self.loads += 1
        loaded = Loaded(*read_configuration(stored.sections))
        self._kept[who] = _Kept(loaded, stored.version, time.monotonic() + self._seconds)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return loaded
