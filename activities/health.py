"""How the providers are: what this fleet knows of them, and whether they answer."""

from temporalio import activity

from activities.boundary import boundary
from activities.paid_call import PaidCalls
from parley.domain.health import HealthInput, Ping, Pong, Survey
from parley.domain.requests import Provider


class HealthActivities:
    def __init__(self, paid_calls: PaidCalls) -> None:
        self._paid_calls = paid_calls

    @activity.defn(name="health.survey")
    @boundary
    async def survey(self, asked: HealthInput) -> Survey:
        """What routing would find now. A local activity."""
        options = await self._paid_calls.candidates.options(asked.workspace_id, list(Provider))
        return Survey(options=tuple(options))

    @activity.defn(name="health.ping")
    @boundary
    async def ping(self, asked: Ping) -> Pong:
        """Ask the provider from where its calls are made. On its own queue, so that keys stay with its workers."""
        seconds = await self._paid_calls.ping(asked.workspace_id, asked.provider)
        return Pong(milliseconds=round(seconds * 1000))
