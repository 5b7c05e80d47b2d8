"""The health of the providers: the state of their breakers, and whether they answer."""

from temporalio import activity

from activities.boundary import boundary
from activities.candidates import Candidates
from activities.paid_call import PaidCalls
from parley.domain.health import HealthInput, Ping, Pong, Survey
from parley.domain.requests import REMOTE_PROVIDERS


class HealthActivities:
    def __init__(self, paid_calls: PaidCalls, candidates: Candidates) -> None:
        self._paid_calls, self._candidates = paid_calls, candidates

    @activity.defn(name="health.survey")
    @boundary
    async def survey(self, given: HealthInput) -> Survey:
        """The options that routing would find now. A local activity."""
        options = await self._candidates.options(given.workspace_id, REMOTE_PROVIDERS)
        return Survey(options=tuple(options))

    @activity.defn(name="health.ping")
    @boundary
    async def ping(self, given: Ping) -> Pong:
        """Ping the provider. It runs on the provider's queue, so that the keys stay with its workers."""
        seconds = await self._paid_calls.ping(given.workspace_id, given.provider)
        return Pong(milliseconds=round(seconds * 1000))
