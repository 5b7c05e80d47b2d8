"""`parley ledger audit`: does the ledger agree with itself? Each check is one query that returns what does not."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from domain.costs import Disagreement

# Every query yields: workspace_id, subject, expected, found. A NULL :workspace audits all of them.
CHECKS: dict[str, str] = {
    "an account's grants are its entries": """
        SELECT a.workspace_id, a.user_id, coalesce(sum(e.amount), 0), a.granted
        FROM energy_accounts a LEFT JOIN energy_entries e
          ON (e.workspace_id, e.user_id, e.kind) = (a.workspace_id, a.user_id, 'grant')
        GROUP BY a.workspace_id, a.user_id, a.granted HAVING coalesce(sum(e.amount), 0) <> a.granted""",
    "an account's charges are its usage rows": """
        SELECT a.workspace_id, a.user_id, coalesce(sum(u.energy_charged), 0), a.charged
        FROM energy_accounts a LEFT JOIN ai_usage_logs u USING (workspace_id, user_id)
        GROUP BY a.workspace_id, a.user_id, a.charged HAVING coalesce(sum(u.energy_charged), 0) <> a.charged""",
    "an account's charges are its entries": """
        SELECT a.workspace_id, a.user_id, coalesce(sum(e.amount), 0), a.charged
        FROM energy_accounts a LEFT JOIN energy_entries e
          ON (e.workspace_id, e.user_id, e.kind) = (a.workspace_id, a.user_id, 'charge')
        GROUP BY a.workspace_id, a.user_id, a.charged HAVING coalesce(sum(e.amount), 0) <> a.charged""",
    "an account's reservations are its open calls'": """
        SELECT a.workspace_id, a.user_id, coalesce(sum(c.energy_reserved), 0), a.reserved
        FROM energy_accounts a LEFT JOIN calls c USING (workspace_id, user_id)
        GROUP BY a.workspace_id, a.user_id, a.reserved HAVING coalesce(sum(c.energy_reserved), 0) <> a.reserved""",
    "a reservation is released, charged or held": """
        SELECT a.workspace_id, a.user_id, a.reserved,
               coalesce(sum(CASE WHEN e.kind = 'reserve' THEN e.amount
                                 WHEN e.kind IN ('release', 'charge') THEN -e.amount END), 0)
        FROM energy_accounts a LEFT JOIN energy_entries e USING (workspace_id, user_id)
        GROUP BY a.workspace_id, a.user_id, a.reserved
        HAVING coalesce(sum(CASE WHEN e.kind = 'reserve' THEN e.amount
                                 WHEN e.kind IN ('release', 'charge') THEN -e.amount END), 0) <> a.reserved""",
    "an envelope's reserved dollars are its open attempts'": """
        SELECT b.workspace_id, b.scope, coalesce(sum(t.estimated_usd) FILTER (WHERE t.state = 'open'), 0),
               b.reserved_usd
        FROM budgets b LEFT JOIN calls c ON c.workspace_id = b.workspace_id AND 'job:' || c.job_key = b.scope
                       LEFT JOIN call_attempts t ON (t.workspace_id, t.request_id) = (c.workspace_id, c.request_id)
        WHERE b.scope LIKE 'job:%' GROUP BY b.workspace_id, b.scope, b.reserved_usd
        HAVING coalesce(sum(t.estimated_usd) FILTER (WHERE t.state = 'open'), 0) <> b.reserved_usd""",
    "an envelope's confirmed dollars are its usage rows'": """
        SELECT b.workspace_id, b.scope, coalesce(sum(u.cost_usd) FILTER (WHERE u.confirmed), 0), b.confirmed_usd
        FROM budgets b LEFT JOIN ai_usage_logs u ON u.workspace_id = b.workspace_id AND 'job:' || u.job_key = b.scope
        WHERE b.scope LIKE 'job:%' GROUP BY b.workspace_id, b.scope, b.confirmed_usd
        HAVING coalesce(sum(u.cost_usd) FILTER (WHERE u.confirmed), 0) <> b.confirmed_usd""",
    "an envelope's uncertain dollars are its usage rows'": """
        SELECT b.workspace_id, b.scope, coalesce(sum(u.cost_usd) FILTER (WHERE NOT u.confirmed), 0), b.uncertain_usd
        FROM budgets b LEFT JOIN ai_usage_logs u ON u.workspace_id = b.workspace_id AND 'job:' || u.job_key = b.scope
        WHERE b.scope LIKE 'job:%' GROUP BY b.workspace_id, b.scope, b.uncertain_usd
        HAVING coalesce(sum(u.cost_usd) FILTER (WHERE NOT u.confirmed), 0) <> b.uncertain_usd""",
    "a settled call has one settled attempt, a reply, a row and an event": """
        SELECT c.workspace_id, c.request_id, '1/1/1/1',
               concat_ws('/', (SELECT count(*) FROM call_attempts t WHERE (t.workspace_id, t.request_id)
                                 = (c.workspace_id, c.request_id) AND t.state = 'settled'),
                              (SELECT count(*) FROM replies r WHERE r.attempt_id = c.settled_attempt_id),
                              (SELECT count(*) FROM ai_usage_logs u WHERE u.attempt_id = c.settled_attempt_id
                                 AND u.outcome = 'settled' AND u.confirmed),
                              (SELECT count(*) FROM outbox o WHERE o.workspace_id = c.workspace_id
                                 AND o.kind = 'ai_generation_completed'
                                 AND o.payload->>'attempt_id' = c.settled_attempt_id::text)) AS found
        FROM calls c WHERE c.state = 'settled'""",
    "an open call has no settled attempt": """
        SELECT c.workspace_id, c.request_id, '0', count(*)
        FROM calls c JOIN call_attempts t USING (workspace_id, request_id)
        WHERE c.state = 'open' AND t.state IN ('settled', 'duplicate') GROUP BY c.workspace_id, c.request_id""",
    "a request is charged at most once, and only for its settled attempt": """
        SELECT u.workspace_id, u.request_id, 'one charge', concat(count(*), ' charges')
        FROM ai_usage_logs u WHERE u.energy_charged > 0 GROUP BY u.workspace_id, u.request_id
        HAVING count(*) > 1 OR bool_or(u.outcome <> 'settled')""",
    "an open attempt owns its call": """
        SELECT t.workspace_id, t.id::text, 'owner', coalesce(c.owner_attempt_id::text, 'nobody')
        FROM call_attempts t JOIN calls c USING (workspace_id, request_id)
        WHERE t.state = 'open' AND t.id IS DISTINCT FROM c.owner_attempt_id""",
    "an attempt that was or may have been billed has a row": """
        SELECT t.workspace_id, t.id::text, '1', '0' FROM call_attempts t
        WHERE t.state <> 'open' AND t.billed <> 'no'
          AND NOT EXISTS (SELECT 1 FROM ai_usage_logs u WHERE u.attempt_id = t.id)""",
    "a usage row tells what its attempt cost": """
        SELECT u.workspace_id, u.attempt_id::text,
               CASE WHEN u.confirmed THEN t.cost_usd ELSE t.estimated_usd END::text, u.cost_usd::text
        FROM ai_usage_logs u JOIN call_attempts t ON t.id = u.attempt_id
        WHERE u.cost_usd IS DISTINCT FROM CASE WHEN u.confirmed THEN t.cost_usd ELSE t.estimated_usd END
           OR u.outcome <> t.state""",
}


async def audit(tx: AsyncSession, workspace_id: str | None = None) -> list[Disagreement]:
    """Run every check. An empty list is a clean ledger; open calls of running jobs are no disagreement."""
    found: list[Disagreement] = []
    for name, query in CHECKS.items():
        scoped = f"SELECT * FROM ({query}) AS rows(workspace_id, subject, expected, found)"  # noqa: S608
        scoped += (
            " WHERE expected::text <> found::text AND (CAST(:workspace AS text) IS NULL OR workspace_id = :workspace)"
        )
        rows = (await tx.execute(text(scoped), {"workspace": workspace_id})).all()
        found += [
            Disagreement(check=name, workspace_id=row[0], subject=row[1], expected=str(row[2]), found=str(row[3]))
            for row in rows
        ]
    return found
