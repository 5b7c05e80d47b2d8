"""A workflow that puts one text into everything in a history that can hold a text."""

import asyncio
from datetime import timedelta
from typing import NoReturn

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

QUOTE = "the-merger-with-Paternoster"


def raise_quoting() -> NoReturn:
    raise ApplicationError(QUOTE, QUOTE, type="Quoted")


@activity.defn
async def quote(text: str) -> None:
    activity.heartbeat(text)
    raise_quoting()


@workflow.defn
class Quoting:
    """It waits for an update, and fails."""

    def __init__(self) -> None:
        self._asked = False

    @workflow.update
    async def ask(self, text: str) -> None:
        self._asked = True
        await asyncio.sleep(0)
        raise_quoting()

    @workflow.run
    async def run(self, text: str) -> None:
        workflow.set_current_details(text)
        await workflow.wait_condition(lambda: self._asked)
        await workflow.sleep(0.01, summary=text)
        for run_activity in (workflow.execute_activity, workflow.execute_local_activity):
            try:
                await run_activity(
                    quote,
                    text,
                    start_to_close_timeout=timedelta(seconds=5),
                    summary=text,
                    retry_policy=RetryPolicy(maximum_attempts=1),
                )
            except ActivityError:
                workflow.logger.debug("as expected")
        raise_quoting()
