"""When a breaker opens: a workspace's own, and the fleet's."""

# One workspace's key, base URL or prompts may be the cause of its failures; those of two have the provider in common.
FLEET_WORKSPACES = 2


def opens(failures: int, workspaces: int, *, threshold: int, is_fleet: bool) -> bool:
    """Whether so many failures in a row, of so many workspaces, open a workspace's own breaker, or the fleet's."""
    return failures >= threshold and workspaces >= (FLEET_WORKSPACES if is_fleet else 1)
