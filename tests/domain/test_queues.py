"""The key by which workspaces share a queue."""

import pytest

from parley.domain.queues import FAIRNESS_KEY_BYTES, fairness_key


@pytest.mark.parametrize("workspace_id", ["acme", "x" * 64, "ü" * 32])
def test_a_short_workspace_id_is_the_key(workspace_id: str) -> None:
    assert fairness_key(workspace_id) == workspace_id


@pytest.mark.parametrize("workspace_id", ["x" * 65, "ü" * 33, "工" * 200])
def test_a_long_workspace_id_is_hashed_to_the_limit(workspace_id: str) -> None:
    key = fairness_key(workspace_id)
    assert len(key.encode()) <= FAIRNESS_KEY_BYTES
    assert key == fairness_key(workspace_id)
    assert key != fairness_key(f"{workspace_id}x")
