"""A consistent ledger of any size, made by PostgreSQL itself: the rows that paid calls would have written."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

RATES = """'{"source": "a price list", "input": "1", "output": "5"}'::jsonb"""
# One request in ten is attempted twice: the first attempt is lost. Half of the requests are a generation each; of the
# others, two hundred share a job. Attempt ids rise, because random ones would fill a million rows' indexes slowly.
STATEMENTS = (
    """
    CREATE TEMPORARY TABLE made ON COMMIT DROP AS
    SELECT n, 'workspace-' || n % 10 AS workspace_id, 'user-' || n % 1000 AS user_id,
           CASE WHEN n % 2 = 0 THEN 'generate-' || n ELSE 'job-' || n % 10 || '-' || n / 2000 END AS job_key,
           CASE WHEN n % 2 = 0 THEN 'generate-' || n || '/generate/ask-1'
                ELSE 'job-' || n % 10 || '-' || n / 2000 || '/step-' || n END AS request_id,
           n % 10 < 1 AS is_repeated, lpad(to_hex(2 * n), 32, '0')::uuid AS first_id,
           lpad(to_hex(2 * n + 1), 32, '0')::uuid AS second_id,
           now() - CAST(:oldest AS interval) * (1 - n::numeric / :requests) AS at
    FROM generate_series(1, :requests) n""",
    """
    INSERT INTO paid_requests (workspace_id, request_id, job_key, user_id, action, fingerprint, state,
                               settled_attempt_id, energy_price, energy_reserved, workflow_id, expires_at, created_at)
    SELECT workspace_id, request_id, job_key, user_id, 'ai_message', 'asked', 'settled',
           CASE WHEN is_repeated THEN second_id ELSE first_id END, 1, 0, job_key, at + interval '1 hour', at
    FROM made""",
    f"""
    INSERT INTO attempts (id, workspace_id, request_id, number, provider, model, simulated, state, billed,
                          upper_bound_usd, cost_usd, rates, breaker_generation, started_at, ended_at)
    SELECT first_id, workspace_id, request_id, 1, 'openai', 'mini', true,
           CASE WHEN is_repeated THEN 'lost' ELSE 'settled' END, CASE WHEN is_repeated THEN 'unknown' ELSE 'yes' END,
           0.001, CASE WHEN is_repeated THEN NULL ELSE 0.0001 END, {RATES}, 0, at, at FROM made
    UNION ALL
    SELECT second_id, workspace_id, request_id, 2, 'openai', 'mini', true, 'settled', 'yes', 0.001, 0.0001, {RATES},
           0, at, at FROM made WHERE is_repeated""",
    "ANALYZE paid_requests, attempts",
    """
    INSERT INTO replies (attempt_id, workspace_id, payload)
    SELECT settled_attempt_id, workspace_id, '{"kind": "chat", "text": "The second one.", "finish": "stop"}'
    FROM paid_requests""",
    """
    INSERT INTO ai_usage_logs (id, user_id, workspace_id, action, provider, model, answered_by, simulated,
                               tokens_prompt, tokens_cached, tokens_cache_written, tokens_completion, tokens_total,
                               audio_seconds, cost_usd, confirmed, outcome, energy_charged, rates, job_key, request_id,
                               attempt_id, created_at)
    SELECT gen_random_uuid(), r.user_id, r.workspace_id, r.action, t.provider, t.model, '', true, 20, 0, 0, 5, 25, 0,
           coalesce(t.cost_usd, t.upper_bound_usd), t.cost_usd IS NOT NULL, t.state,
           CASE WHEN t.state = 'settled' THEN 1 ELSE 0 END, t.rates, r.job_key, r.request_id, t.id, t.ended_at
    FROM paid_requests r JOIN attempts t USING (workspace_id, request_id)""",
    """
    INSERT INTO outbox (workspace_id, kind, attempt_id, payload, tries, problem, created_at, delivered_at)
    SELECT workspace_id, 'ai_generation_completed', id, '{"tokens_total": 25, "cost_usd": "0.0001"}', 1, '',
           ended_at, ended_at
    FROM attempts WHERE state = 'settled'""",
    """
    INSERT INTO energy_entries (workspace_id, user_id, kind, amount, request_id, created_at)
    SELECT workspace_id, user_id, kind, 1, request_id, created_at
    FROM paid_requests, unnest(ARRAY['reserve', 'charge']) kind""",
    """
    INSERT INTO energy_entries (workspace_id, user_id, kind, amount, grant_key, created_at)
    SELECT workspace_id, user_id, 'grant', count(*), 'starting grant', min(created_at)
    FROM paid_requests GROUP BY 1, 2""",
    """
    INSERT INTO energy_accounts (workspace_id, user_id, tier, granted, charged, charged_earlier, reserved)
    SELECT workspace_id, user_id, 'free', count(*), count(*), 0, 0 FROM paid_requests GROUP BY 1, 2""",
    """
    INSERT INTO budgets (workspace_id, scope, reserved_usd, confirmed_usd, uncertain_usd)
    SELECT workspace_id, scope, 0, coalesce(sum(cost_usd) FILTER (WHERE confirmed), 0),
           coalesce(sum(cost_usd) FILTER (WHERE NOT confirmed), 0)
    FROM ai_usage_logs, unnest(ARRAY['job:' || job_key, 'day:' || (created_at AT TIME ZONE 'UTC')::date]) scope
    GROUP BY 1, 2""",
    """
    INSERT INTO generations (workspace_id, request_id, job_key, fingerprint, workflow_id, user_id, action, template,
                             experiment, arm, outcome, reason, cached, provider, model, attempt_id, tokens_total,
                             cost_usd, saved_usd, started_at, created_at)
    SELECT workspace_id, job_key || '/generate', job_key, 'asked', workflow_id, user_id, action, '', '', '',
           'completed', '', '', 'openai', 'mini', settled_attempt_id, 25, 0.0001, 0,
                  created_at - interval '900 milliseconds', created_at
    FROM paid_requests WHERE job_key LIKE 'generate-%'""",
)


async def fill(tx: AsyncSession, requests: int, *, oldest: timedelta = timedelta(days=30)) -> None:
    """Make the rows of this many paid requests in an empty database, evenly spread from `oldest` until now."""
    for statement in STATEMENTS:
        values = {"requests": requests, "oldest": oldest}
        await tx.execute(text(statement), {name: values[name] for name in values if f":{name}" in statement})
