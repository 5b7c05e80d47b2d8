"""The job `Health`: whether each provider answers, and whether its circuit breaker is open. It costs nothing."""

from enum import StrEnum

from parley.domain.model import Model, WorkspaceId
from parley.domain.requests import Provider
from parley.domain.routing import Option

WORKFLOW = "Health"


class HealthInput(Model):
    """The workspace whose keys are tried; where it has none, those of the environment."""

    workspace_id: WorkspaceId


class Survey(Model):
    """What is known of each provider before it is pinged: whether it is configured, and the state of its breaker."""

    options: tuple[Option, ...]


class Ping(Model):
    """Send a free request to a provider."""

    workspace_id: str
    provider: Provider


class Pong(Model):
    """The provider answered, and accepted the key."""

    milliseconds: int


class State(StrEnum):
    UP = "up"
    DOWN = "down"
    NO_WORKER = "no worker"
    NOT_CONFIGURED = "not configured"


class ProviderHealth(Model):
    """The state of a provider. `reason`: why it is not up. `breaker_seconds`: how long its breaker stays open, or 0.

    A provider may be up while its breaker is open, because only a paid request closes it; and the reverse.
    """

    provider: Provider
    state: State
    reason: str = ""
    milliseconds: int | None = None
    simulated: bool = False
    breaker_seconds: float = 0.0


class HealthReport(Model):
    """The state of every provider."""

    providers: tuple[ProviderHealth, ...]

    @property
    def is_well(self) -> bool:
        """Whether every configured provider answers."""
        return all(one.state in (State.UP, State.NOT_CONFIGURED) for one in self.providers)
