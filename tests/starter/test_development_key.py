"""The gateway's development key: the same at each start, until the data is erased or the key is revoked."""

from dataclasses import replace
from pathlib import Path

from parley import Backend, Settings
from starter.embedded import Addresses
from starter.embedded.state import StateDir
from starter.local import _development_key


async def test_it_stays_the_same_until_it_is_revoked(
    settings: Settings, backend: Backend, stack: Addresses, database_url: str, tmp_path: Path
):
    state, addresses = StateDir(tmp_path), replace(stack, database_url=database_url)
    first = await _development_key(settings, state, addresses)
    assert await _development_key(settings, state, addresses) == first
    keys = backend.client("default").gateway_keys
    [known] = await keys.list()
    await keys.revoke(known.key_id)
    second = await _development_key(settings, state, addresses)
    assert second != first
    assert state.read_gateway_key() == second
