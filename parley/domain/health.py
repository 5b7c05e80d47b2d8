"""The job `Health`: does each provider answer, and does the fleet let calls to it pass? Nothing is paid for it."""

from enum import StrEnum

from pydantic import Field

from parley.domain.model import Model
from parley.domain.requests import Provider
from parley.domain.routing import Option

WORKFLOW = "Health"


class HealthInput(Model):
    """Whose keys are tried: the workspace's own where it has some, else the fleet's."""

    workspace_id: str = Field(min_length=1, max_length=200)


class Survey(Model):
    """What is known of each provider before it is asked: whether it is configured, and how its breaker stands."""

    options: tuple[Option, ...]


class Ping(Model):
    workspace_id: str
    provider: Provider


class Pong(Model):
    """The provider answered, and took the key."""

    milliseconds: int


class State(StrEnum):
    UP = "up"
    DOWN = "down"
    NO_WORKER = "no worker"
    NOT_CONFIGURED = "not configured"


class ProviderHealth(Model):
    """How a provider is. `reason`: why it is not up. `breaker_seconds`: how long calls are still held back, 0 if not.

    A provider may be up with its breaker open, until a call has shown that it is; and the other way about.
    """

    provider: Provider
    state: State
    reason: str = ""
    milliseconds: int | None = None
    simulated: bool = False
    breaker_seconds: float = 0.0


class HealthReport(Model):
    providers: tuple[ProviderHealth, ...]

    @property
    def is_well(self) -> bool:
        """Whether every provider that is configured answers."""
        return all(one.state in (State.UP, State.NOT_CONFIGURED) for one in self.providers)
