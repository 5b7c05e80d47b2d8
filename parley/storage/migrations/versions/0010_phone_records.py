"""Which session of a phone call has recorded its end, and which turns were interrupted, for `system_metrics`."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0008"
branch_labels = None
depends_on = None

VIEW = """
    CREATE VIEW system_metrics AS
    SELECT c.workspace_id, c.number, date_trunc('hour', t.created_at) AS hour,
           count(DISTINCT c.call_sid) AS phone_calls,
           count(*) AS turns,
           avg(t.first_token_ms) AS first_token_ms_average,
           avg(t.response_ms) AS response_ms_average,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY t.response_ms) AS response_ms_p95,
           coalesce(sum(t.audio_ms), 0) AS audio_ms,
           count(t.filler_ms) AS fillers, count(t.template_ms) AS templates,
           count(*) FILTER (WHERE {interrupted}) AS interruptions,
           count(*) FILTER (WHERE t.error NOT IN ('', 'SessionEnded')) AS errors
    FROM call_sessions c
    JOIN conversation_turns t ON (t.workspace_id, t.conversation_id) = (c.workspace_id, c.call_sid)
    GROUP BY 1, 2, 3"""


def upgrade() -> None:
    # The defaults stay: workers of the version before insert rows.
    op.add_column("call_sessions", sa.Column("left_session", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("conversation_turns", sa.Column("interrupted", sa.Boolean(), nullable=False, server_default="false"))
    op.execute("DROP VIEW system_metrics")
    op.execute(VIEW.format(interrupted="t.interrupted"))


def downgrade() -> None:
    op.execute("DROP VIEW system_metrics")
    op.drop_column("conversation_turns", "interrupted")
    op.drop_column("call_sessions", "left_session")
    op.execute(VIEW.format(interrupted="t.heard IS NOT NULL"))
