"""Views with the specification's names over what is stored once: `conversation_context` and `performance_metrics`."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CONVERSATION_CONTEXT = """
    CREATE VIEW conversation_context AS
    SELECT c.workspace_id, c.conversation_id, c.user_id, c.turns, c.summary, c.summarized_through, c.summary_tokens,
           last.context_sha256, last.tokens AS last_turn_tokens, recent.exchanges, recent.tokens AS exchange_tokens,
           c.created_at, c.last_turn_at, c.closed_at
    FROM conversations c
    LEFT JOIN LATERAL (
        SELECT t.context_sha256, t.tokens FROM conversation_turns t
        WHERE (t.workspace_id, t.conversation_id) = (c.workspace_id, c.conversation_id) AND t.context_sha256 <> ''
        ORDER BY t.number DESC LIMIT 1) last ON true
    LEFT JOIN LATERAL (
        SELECT count(*) AS exchanges, coalesce(sum(t.tokens), 0) AS tokens FROM conversation_turns t
        WHERE (t.workspace_id, t.conversation_id) = (c.workspace_id, c.conversation_id)
          AND t.number > c.summarized_through AND t.outcome = 'completed') recent ON true"""
PERFORMANCE_METRICS = """
    CREATE VIEW performance_metrics AS
    SELECT workspace_id, date_trunc('hour', created_at) AS hour, action, provider, model, count(*) AS requests,
           count(*) FILTER (WHERE outcome = 'completed') AS completed,
           count(*) FILTER (WHERE outcome = 'failed') AS failed,
           count(*) FILTER (WHERE cached IN ('exact', 'similar')) AS cache_hits,
           avg(extract(epoch FROM created_at - started_at) * 1000) FILTER (WHERE outcome = 'completed') AS average_ms,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM created_at - started_at) * 1000)
               FILTER (WHERE outcome = 'completed') AS p95_ms,
           sum(tokens_total) AS tokens_total, sum(cost_usd) AS cost_usd, sum(saved_usd) AS saved_usd,
           avg(quality) AS quality, count(*) FILTER (WHERE feedback = 'good') AS good,
           count(*) FILTER (WHERE feedback = 'bad') AS bad
    FROM generations
    GROUP BY workspace_id, date_trunc('hour', created_at), action, provider, model"""


def upgrade() -> None:
    op.execute(CONVERSATION_CONTEXT)
    op.execute(PERFORMANCE_METRICS)


def downgrade() -> None:
    op.execute("DROP VIEW performance_metrics")
    op.execute("DROP VIEW conversation_context")
