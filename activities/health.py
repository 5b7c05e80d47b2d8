"""The state of the providers: what this fleet knows of them, and whether they answer."""

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
    async def survey(self, health_input: HealthInput) -> Survey:
        """What routing would find now. A local activity."""
        options = await self._paid_calls.candidates.options(health_input.workspace_id, list(Provider))
        return Survey(options=tuple(options))

    @activity.defn(name="health.ping")
    @boundary
    async def ping(self, ping: Ping) -> Pong:
        """Send the provider a free request, from its own task queue: keys stay with the workers that use them."""
        seconds = await self._paid_calls.ping(ping.workspace_id, ping.provider)
        return Pong(milliseconds=round(seconds * 1000))
