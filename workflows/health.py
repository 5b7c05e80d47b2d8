"""`Health`: ping every configured provider with a free request, each from its own workers."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, TimeoutType, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.health import HealthActivities
    from parley import visibility
    from parley.domain.errors import InvalidInput, ParleyError
    from parley.domain.health import WORKFLOW, HealthInput, HealthReport, Ping, ProviderHealth, State
    from parley.domain.queues import provider_queue
    from parley.domain.routing import Option
    from workflows.policies import LOCAL_STEP, PING_STEP


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class Health:
    """Ping all providers concurrently, once each. It ends within seconds, also if some do not answer."""

    @workflow.run
    async def run(self, given: HealthInput | None = None) -> HealthReport:
        """Ping the providers.

        Raises:
            InvalidInput: the workflow was started without input.
        """
        if given is None:
            raise InvalidInput("Health needs a HealthInput", where="input")
        visibility.record_start(given.workspace_id, WORKFLOW)
        survey = await workflow.execute_local_activity_method(
            HealthActivities.survey, given, summary="keys and breakers", **LOCAL_STEP
        )
        found = await asyncio.gather(*(_pinged(given.workspace_id, option) for option in survey.options))
        report = HealthReport(providers=tuple(found))
        visibility.record_end("completed" if report.is_well else "failed")
        return report


async def _pinged(workspace_id: str, option: Option) -> ProviderHealth:
    known = ProviderHealth(
        provider=option.provider,
        state=State.NOT_CONFIGURED,
        simulated=option.simulated,
        breaker_seconds=option.breaker_wait,
    )
    if not option.configured:
        return known
    try:
        pong = await workflow.execute_activity_method(
            HealthActivities.ping,
            Ping(workspace_id=workspace_id, provider=option.provider),
            task_queue=provider_queue(option.provider),
            summary=f"ping {option.provider.value}",
            **PING_STEP,
        )
    except ActivityError as error:
        if is_cancelled_exception(error):
            raise
        state, reason = _failure(error)
        return known.model_copy(update={"state": state, "reason": reason})
    return known.model_copy(update={"state": State.UP, "milliseconds": pong.milliseconds})


def _failure(error: ActivityError) -> tuple[State, str]:
    cause = error.cause
    if isinstance(cause, TimeoutError) and cause.type is TimeoutType.SCHEDULE_TO_START:
        waited = PING_STEP["schedule_to_start_timeout"].total_seconds()
        return State.NO_WORKER, f"no worker took the request within {waited:.0f} s"
    return State.DOWN, cause.message[:200] if isinstance(cause, ApplicationError) else "its worker stopped responding"
