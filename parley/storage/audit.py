"""`parley ledger audit`: check that the ledger is consistent and agrees with a provider's bill.

Each check is one query that returns the rows that disagree. It joins tables or their sums, so that its work grows
as the ledger does.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.costs import BilledAttempt, Disagreement
from parley.domain.joint import Member, shares_of_billed

# Every query yields: workspace_id, subject, expected, found. A NULL :workspace audits all of them.
CHECKS: dict[str, str] = {
    "an account's grants are its entries": """
        SELECT a.workspace_id, a.user_id, coalesce(sum(e.amount), 0), a.granted
        FROM energy_accounts a LEFT JOIN energy_entries e
          ON (e.workspace_id, e.user_id, e.kind) = (a.workspace_id, a.user_id, 'grant')
        GROUP BY a.workspace_id, a.user_id, a.granted HAVING coalesce(sum(e.amount), 0) <> a.granted""",
    "an account's charges are its usage rows": """
        SELECT a.workspace_id, a.user_id, a.charged_earlier + coalesce(u.energy, 0), a.charged
        FROM energy_accounts a LEFT JOIN
             (SELECT workspace_id, user_id, sum(energy_charged) AS energy FROM ai_usage_logs GROUP BY 1, 2) u
          USING (workspace_id, user_id)""",
    "an account's charges are its entries": """
        SELECT a.workspace_id, a.user_id, a.charged_earlier + coalesce(e.energy, 0), a.charged
        FROM energy_accounts a LEFT JOIN
             (SELECT workspace_id, user_id, sum(amount) AS energy FROM energy_entries
              WHERE kind = 'charge' GROUP BY 1, 2) e
          USING (workspace_id, user_id)""",
    "an account's reservations are its open requests'": """
        SELECT a.workspace_id, a.user_id, coalesce(c.energy, 0), a.reserved
        FROM energy_accounts a LEFT JOIN
             (SELECT workspace_id, user_id, sum(energy_reserved) AS energy FROM paid_requests
              WHERE energy_reserved <> 0 GROUP BY 1, 2) c
          USING (workspace_id, user_id)""",
    "a reservation is released, charged or held": """
        SELECT a.workspace_id, a.user_id, a.reserved, coalesce(e.energy, 0)
        FROM energy_accounts a LEFT JOIN
             (SELECT workspace_id, user_id,
                     sum(CASE WHEN kind = 'reserve' THEN amount ELSE -amount END) AS energy
              FROM energy_entries WHERE kind IN ('reserve', 'release', 'charge') GROUP BY 1, 2) e
          USING (workspace_id, user_id)""",
    "an envelope's reserved dollars are its open attempts'": """
        SELECT b.workspace_id, b.scope, coalesce(t.usd, 0)::numeric(24, 12), b.reserved_usd
        FROM budgets b LEFT JOIN
             (SELECT c.workspace_id, 'job:' || c.job_key AS scope, sum(t.upper_bound_usd) AS usd
              FROM paid_requests c JOIN attempts t USING (workspace_id, request_id)
              WHERE t.state = 'open' GROUP BY 1, 2) t USING (workspace_id, scope)
        WHERE b.scope LIKE 'job:%'""",
    "an envelope's confirmed dollars are its usage rows'": """
        SELECT b.workspace_id, b.scope, coalesce(u.usd, 0)::numeric(24, 12), b.confirmed_usd
        FROM budgets b LEFT JOIN
             (SELECT workspace_id, 'job:' || job_key AS scope, sum(cost_usd) AS usd
              FROM ai_usage_logs WHERE confirmed GROUP BY 1, 2) u USING (workspace_id, scope)
        WHERE b.scope LIKE 'job:%'""",
    "an envelope's uncertain dollars are its usage rows'": """
        SELECT b.workspace_id, b.scope, coalesce(u.usd, 0)::numeric(24, 12), b.uncertain_usd
        FROM budgets b LEFT JOIN
             (SELECT workspace_id, 'job:' || job_key AS scope, sum(cost_usd) AS usd
              FROM ai_usage_logs WHERE NOT confirmed GROUP BY 1, 2) u USING (workspace_id, scope)
        WHERE b.scope LIKE 'job:%'""",
    "a settled request has one settled attempt, a reply, a row and an event": """
        SELECT c.workspace_id, c.request_id, '1/1/1/1',
               concat_ws('/', num_nonnulls(k.id), num_nonnulls(r.attempt_id), num_nonnulls(u.attempt_id),
                              coalesce(o.events, (k.ended_at < (SELECT before FROM purge_marks
                                                                WHERE subject = 'events'))::int, 0))
        FROM paid_requests c
        LEFT JOIN attempts k ON (k.id, k.workspace_id, k.request_id)
                                = (c.settled_attempt_id, c.workspace_id, c.request_id) AND k.state = 'settled'
        LEFT JOIN replies r ON r.attempt_id = c.settled_attempt_id
        LEFT JOIN ai_usage_logs u ON u.attempt_id = c.settled_attempt_id AND u.outcome = 'settled'
                                 AND u.confirmed = (k.cost_usd IS NOT NULL)
        LEFT JOIN (SELECT workspace_id, attempt_id, count(*) AS events FROM outbox
                   WHERE kind = 'ai_generation_completed' GROUP BY 1, 2) o
               ON (o.workspace_id, o.attempt_id) = (c.workspace_id, c.settled_attempt_id)
        WHERE c.state = 'settled'""",
    "a settled attempt is the one that settled its request": """
        SELECT t.workspace_id, t.id::text, 'settled ' || t.request_id, coalesce(c.state, 'none')
        FROM attempts t LEFT JOIN paid_requests c ON (c.settled_attempt_id, c.workspace_id) = (t.id, t.workspace_id)
                                                 AND c.state = 'settled'
        WHERE t.state = 'settled' AND c.request_id IS NULL""",
    "a joint request has one provider and model, and one attempt at each of its requests": """
        SELECT min(t.workspace_id), t.joint_id::text, concat_ws('/', 1, 1, count(*)),
               concat_ws('/', count(DISTINCT t.workspace_id), count(DISTINCT (t.provider, t.model)),
                              count(DISTINCT t.request_id))
        FROM attempts t WHERE t.joint_id IS NOT NULL GROUP BY t.joint_id""",
    "a duplicate attempt is of a settled request": """
        SELECT t.workspace_id, t.id::text, 'settled', c.state
        FROM attempts t JOIN paid_requests c USING (workspace_id, request_id)
        WHERE t.state = 'duplicate' AND c.state <> 'settled'""",
    "a result is charged at most once, and only for a settled attempt": """
        SELECT u.workspace_id, coalesce(c.result_id, c.request_id), 'one charge', concat(count(*), ' charges')
        FROM ai_usage_logs u JOIN paid_requests c USING (workspace_id, request_id) WHERE u.energy_charged > 0
        GROUP BY u.workspace_id, coalesce(c.result_id, c.request_id)
        HAVING count(*) > 1 OR bool_or(u.outcome <> 'settled')""",
    "an open attempt owns its request": """
        SELECT t.workspace_id, t.id::text, 'owner', coalesce(c.owner_attempt_id::text, 'no owner')
        FROM attempts t JOIN paid_requests c USING (workspace_id, request_id)
        WHERE t.state = 'open' AND t.id IS DISTINCT FROM c.owner_attempt_id""",
    "an attempt that was or may have been billed has a row": """
        SELECT t.workspace_id, t.id::text, '1', '0' FROM attempts t
        WHERE t.state <> 'open' AND t.billed <> 'no'
          AND NOT EXISTS (SELECT 1 FROM ai_usage_logs u WHERE u.attempt_id = t.id)""",
    "a usage row has its attempt's cost": """
        SELECT u.workspace_id, u.attempt_id::text,
               CASE WHEN u.confirmed THEN t.cost_usd ELSE t.upper_bound_usd END::text, u.cost_usd::text
        FROM ai_usage_logs u JOIN attempts t ON t.id = u.attempt_id
        WHERE u.cost_usd IS DISTINCT FROM CASE WHEN u.confirmed THEN t.cost_usd ELSE t.upper_bound_usd END
           OR u.outcome <> t.state""",
    "a day's envelope is what its attempts cost": """
        SELECT coalesce(b.workspace_id, t.workspace_id), coalesce(b.scope, t.scope),
               concat_ws(' / ', coalesce(t.reserved, 0)::numeric(24, 12), coalesce(t.confirmed, 0)::numeric(24, 12),
                                coalesce(t.uncertain, 0)::numeric(24, 12)),
               concat_ws(' / ', coalesce(b.reserved_usd, 0)::numeric(24, 12),
                                coalesce(b.confirmed_usd, 0)::numeric(24, 12),
                                coalesce(b.uncertain_usd, 0)::numeric(24, 12))
        FROM (SELECT * FROM budgets WHERE scope LIKE 'day:%') b FULL JOIN
             (SELECT workspace_id, 'day:' || day AS scope, sum(reserved) AS reserved,
                     sum(confirmed) AS confirmed, sum(uncertain) AS uncertain
              FROM (SELECT workspace_id, (started_at AT TIME ZONE 'UTC')::date AS day,
                           sum(upper_bound_usd) FILTER (WHERE state = 'open') AS reserved,
                           sum(cost_usd) FILTER (WHERE state <> 'open') AS confirmed,
                           sum(upper_bound_usd) FILTER (WHERE state <> 'open' AND cost_usd IS NULL) AS uncertain
                    FROM attempts GROUP BY 1, 2
                    UNION ALL
                    SELECT workspace_id, day, 0, confirmed_usd, uncertain_usd FROM usage_totals) made
              GROUP BY 1, 2) t
          ON (t.workspace_id, t.scope) = (b.workspace_id, b.scope)""",
    "an attempt costs at most its upper bound": """
        SELECT t.workspace_id, t.id::text, 'at most $' || t.upper_bound_usd, '$' || t.cost_usd
        FROM attempts t WHERE t.cost_usd > t.upper_bound_usd""",
    "an envelope is within its cap": """
        SELECT b.workspace_id, b.scope, 'at most $' || b.cap_usd,
               '$' || (b.reserved_usd + b.confirmed_usd + b.uncertain_usd)
        FROM budgets b WHERE b.reserved_usd + b.confirmed_usd + b.uncertain_usd > b.cap_usd""",
    # A cap that was set below what is spent already is not overdrawn: no attempt has started since.
    "a workspace's spending is within its caps": """
        SELECT c.workspace_id, c.period || ' from ' || p.begins, 'at most $' || c.cap_usd, '$' || s.spent
        FROM spending_caps c
        CROSS JOIN LATERAL (SELECT date_trunc(c.period, now() AT TIME ZONE 'UTC')::date AS begins) p
        CROSS JOIN LATERAL (
            SELECT sum(b.reserved_usd + b.confirmed_usd + b.uncertain_usd) AS spent FROM budgets b
            WHERE b.workspace_id = c.workspace_id AND b.scope >= 'day:' || p.begins
              AND b.scope < 'day:' || (p.begins + ('1 ' || c.period)::interval)::date) s
        WHERE s.spent > c.cap_usd
          AND EXISTS (SELECT 1 FROM attempts t WHERE t.workspace_id = c.workspace_id
                        AND t.started_at >= greatest(c.updated_at, p.begins AT TIME ZONE 'UTC'))""",
    "an answered generation names the attempt that answered": """
        SELECT g.workspace_id, g.request_id, 'an attempt', coalesce(g.attempt_id::text, 'none')
        FROM generations g
        WHERE (g.outcome = 'completed' OR g.attempt_id IS NOT NULL)
          AND NOT EXISTS (SELECT 1 FROM attempts t WHERE t.id = g.attempt_id AND t.workspace_id = g.workspace_id
                            AND (t.state = 'settled' OR g.outcome <> 'completed'))""",
    "a generation costs what its attempts cost": """
        SELECT g.workspace_id, g.request_id, coalesce(b.confirmed_usd, 0)::numeric(24, 12), g.cost_usd
        FROM generations g LEFT JOIN budgets b ON (b.workspace_id, b.scope) = (g.workspace_id, 'job:' || g.job_key)""",
}

# Checks against `billed`, a provider's list with one row per attempt id. Open attempts may be billed already.
BILLED_CHECKS: dict[str, str] = {
    # An attempt of another workspace is audited there; an attempt of no workspace is reported in every one.
    "what was billed is in the ledger": """
        SELECT CAST(:workspace AS text), coalesce(b.attempt_id::text, b.source), 'an attempt', 'unknown'
        FROM billed b WHERE b.billed AND NOT EXISTS (SELECT 1 FROM attempts t WHERE t.id = b.attempt_id)""",
    "what was billed is not recorded as free": """
        SELECT t.workspace_id, t.id::text, 'billed', 'not billed'
        FROM billed b JOIN attempts t ON t.id = b.attempt_id
        WHERE b.billed AND t.state <> 'open' AND t.billed = 'no'""",
    # Between the first and the last attempt of a provider that the list mentions, it is taken to be complete. A stream
    # whose readers left before its request was sent is settled for nothing, and no provider knows of it.
    "what is confirmed was billed": """
        SELECT t.workspace_id, t.id::text, 'billed', coalesce(b.source || ' says not billed', 'not in the list')
        FROM (SELECT k.workspace_id, k.provider, k.simulated, min(k.started_at) AS since, max(k.started_at) AS until
              FROM billed b JOIN attempts k ON k.id = b.attempt_id GROUP BY 1, 2, 3) s
        JOIN attempts t ON (t.workspace_id, t.provider, t.simulated) = (s.workspace_id, s.provider, s.simulated)
                            AND t.started_at BETWEEN s.since AND s.until
        LEFT JOIN billed b ON b.attempt_id = t.id
        WHERE t.state <> 'open' AND t.billed = 'yes' AND t.cost_usd <> 0
          AND (b.attempt_id IS NULL OR NOT b.billed)""",
    # A difference of a millionth is allowed: the ledger rounds each attempt, a list may round its total.
    "what was billed costs what the ledger says": """
        SELECT t.workspace_id, t.id::text, '$' || b.cost_usd, '$' || t.cost_usd
        FROM billed b JOIN attempts t ON t.id = b.attempt_id
        WHERE b.billed AND t.billed = 'yes' AND abs(b.cost_usd - t.cost_usd) > 0.000001""",
    "what was billed counts what the ledger says": """
        SELECT u.workspace_id, u.attempt_id::text,
               concat_ws(' / ', b.input_tokens, b.output_tokens, round(b.audio_seconds, 3)),
               concat_ws(' / ', CASE WHEN b.input_tokens IS NOT NULL THEN u.tokens_prompt END,
                                CASE WHEN b.output_tokens IS NOT NULL THEN u.tokens_completion END,
                                CASE WHEN b.audio_seconds IS NOT NULL THEN u.audio_seconds END)
        FROM billed b JOIN ai_usage_logs u USING (attempt_id) WHERE b.billed AND u.confirmed""",
    "what was billed and never answered is within its bound": """
        SELECT t.workspace_id, t.id::text, '$' || b.cost_usd, 'at most $' || t.upper_bound_usd
        FROM billed b JOIN attempts t ON t.id = b.attempt_id
        WHERE b.billed AND t.billed = 'unknown' AND t.state <> 'open' AND b.cost_usd > t.upper_bound_usd""",
}
CREATE_BILLED = text("""
    CREATE TEMPORARY TABLE billed (source text, attempt_id uuid, billed boolean, cost_usd numeric,
                                   input_tokens bigint, cached_input_tokens bigint, cache_write_tokens bigint,
                                   output_tokens bigint, audio_seconds numeric) ON COMMIT DROP""")
INSERT_BILLED = text("""
    INSERT INTO billed VALUES
        (:source, :attempt_id, :billed, :cost_usd, :input_tokens, :cached_input_tokens, :cache_write_tokens,
         :output_tokens, :audio_seconds)""")
MEMBERS = text("""
    SELECT joint_id, id, upper_bound_usd FROM attempts
    WHERE joint_id = ANY(CAST(:listed AS uuid[])) ORDER BY joint_id, request_id COLLATE "C", id""")
# A nested loop is quadratic here, and PostgreSQL chooses it where statistics are missing or old. The memory is what a
# join of a million rows needs; with half of it the joins go through files.
READ_WHOLE_TABLES = text("SELECT set_config('enable_nestloop', 'off', true), set_config('work_mem', '256MB', true)")


async def audit(tx: AsyncSession, workspace_id: str | None = None) -> list[Disagreement]:
    """Run every check. An empty list means a consistent ledger; open requests of running jobs do not count."""
    return await _run(tx, CHECKS, workspace_id)


async def audit_billed(tx: AsyncSession, workspace_id: str, billed: Sequence[BilledAttempt]) -> list[Disagreement]:
    """Compare a provider's list, one row per attempt, with the attempts of a workspace."""
    await load_billed(tx, billed)
    return await _run(tx, BILLED_CHECKS, workspace_id)


async def load_billed(tx: AsyncSession, billed: Sequence[BilledAttempt]) -> None:
    """Put a provider's list into the table `billed`, which exists until the transaction ends.

    What the list says of a joint request is divided into its members' shares.
    """
    await tx.execute(CREATE_BILLED)
    if billed:
        members = await _members(tx, billed)
        rows = [part for row in billed for part in shares_of_billed(row, members.get(row.attempt_id, ()))]
        await tx.execute(INSERT_BILLED, [row.model_dump() for row in rows])
    await tx.execute(text("ANALYZE billed"))


async def _members(tx: AsyncSession, billed: Sequence[BilledAttempt]) -> dict[UUID | None, list[Member]]:
    """The members of the joint requests in a provider's list, by the id that the list has."""
    listed = [row.attempt_id for row in billed if row.attempt_id]
    found: dict[UUID | None, list[Member]] = {}
    for row in (await tx.execute(MEMBERS, {"listed": listed})).all():
        found.setdefault(row.joint_id, []).append(Member(attempt_id=row.id, upper_bound_usd=row.upper_bound_usd))
    return found


async def _run(tx: AsyncSession, checks: Mapping[str, str], workspace_id: str | None) -> list[Disagreement]:
    found: list[Disagreement] = []
    await tx.execute(READ_WHOLE_TABLES)
    for name, query in checks.items():
        disagreeing = f"SELECT * FROM ({query}) AS rows(workspace_id, subject, expected, found)"  # noqa: S608
        disagreeing += " WHERE expected::text <> found::text"
        disagreeing += " AND workspace_id = :workspace" if workspace_id is not None else ""
        rows = (await tx.execute(text(disagreeing), {"workspace": workspace_id})).all()
        found += [
            Disagreement(check=name, workspace_id=row[0], subject=row[1], expected=str(row[2]), found=str(row[3]))
            for row in rows
        ]
    return found
