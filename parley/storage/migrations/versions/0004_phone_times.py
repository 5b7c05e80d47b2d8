"""When the filler, the template and the first text of a phone call's turn came, and `system_metrics` with them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = ("filler_ms", "template_ms", "first_token_ms")
VIEW = """
    CREATE VIEW system_metrics AS
    SELECT c.workspace_id, c.number, date_trunc('hour', t.created_at) AS hour,
           count(DISTINCT c.call_sid) AS phone_calls,
           count(*) AS turns,
           {averages}
           avg(t.response_ms) AS response_ms_average,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY t.response_ms) AS response_ms_p95,
           coalesce(sum(t.audio_ms), 0) AS audio_ms,
           {counts}
           count(*) FILTER (WHERE t.heard IS NOT NULL) AS interruptions,
           count(*) FILTER (WHERE t.error NOT IN ('', 'SessionEnded')) AS errors
    FROM call_sessions c
    JOIN conversation_turns t ON (t.workspace_id, t.conversation_id) = (c.workspace_id, c.call_sid)
    GROUP BY 1, 2, 3"""
WITH_TIMES = VIEW.format(
    averages="avg(t.first_token_ms) AS first_token_ms_average,",
    counts="count(t.filler_ms) AS fillers, count(t.template_ms) AS templates,",
)


def upgrade() -> None:
    op.execute("DROP VIEW system_metrics")
    for name in COLUMNS:
        op.add_column("conversation_turns", sa.Column(name, sa.Integer(), nullable=True))
    op.execute(WITH_TIMES)


def downgrade() -> None:
    op.execute("DROP VIEW system_metrics")
    for name in COLUMNS:
        op.drop_column("conversation_turns", name)
    op.execute(VIEW.format(averages="", counts=""))
