"""Raise an alert for each workspace that spent more than the threshold in a week."""

from temporalio import activity

from activities.boundary import boundary
from parley.domain.generate.policy import Policy
from parley.domain.housekeeping import AlertInput, AlertReport
from parley.storage.alerts import raise_alerts
from parley.storage.database import Database


class AlertActivities:
    def __init__(self, database: Database, policy: Policy) -> None:
        self._database = database
        self._threshold = policy.weekly_alert_usd

    @activity.defn(name="alert_on_costs")
    @boundary
    async def alert(self, job: AlertInput) -> AlertReport:
        """Write a row, an event and a log line for each workspace over the threshold."""
        async with self._database.transaction(bulk=True) as tx:
            alerts = await raise_alerts(tx, job.week, self._threshold)
        for alert in alerts:
            activity.logger.warning(
                "workspace %r spent $%s in %s, $%s of it uncertain; the threshold is $%s",
                alert.workspace_id,
                alert.spent_usd,
                alert.period,
                alert.uncertain_usd,
                alert.threshold_usd,
            )
        return AlertReport(week=job.week.name, alerts=len(alerts))
