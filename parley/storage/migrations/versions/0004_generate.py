"""Generate: configuration, caps, prompts, answers given and kept, alerts, and a day's spending per workspace."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Every attempt counts on the day, in UTC, on which it was made; those made before this revision as well.
PAST_DAYS = """
    INSERT INTO budgets (workspace_id, scope, cap_usd, reserved_usd, confirmed_usd, uncertain_usd)
    SELECT workspace_id, 'day:' || (started_at AT TIME ZONE 'UTC')::date, NULL,
           coalesce(sum(upper_bound_usd) FILTER (WHERE state = 'open'), 0),
           coalesce(sum(cost_usd) FILTER (WHERE state <> 'open'), 0),
           coalesce(sum(upper_bound_usd) FILTER (WHERE state <> 'open' AND cost_usd IS NULL), 0)
    FROM attempts GROUP BY 1, 2"""


def upgrade() -> None:
    op.create_table(
        "configuration",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("section", sa.String(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "owner", "section"),
    )
    op.create_table(
        "cost_alerts",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("threshold_usd", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("spent_usd", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("uncertain_usd", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "period"),
    )
    op.create_table(
        "generations",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("prospect_id", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("template", sa.String(), nullable=False),
        sa.Column("experiment", sa.String(), nullable=False),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("cached", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=True),
        sa.Column("tokens_total", sa.Integer(), nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("saved_usd", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("latency_ms", sa.Integer(), nullable=False),
        sa.Column("quality", sa.Numeric(precision=4, scale=3), nullable=True),
        sa.Column("feedback", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("cached IN ('', 'exact', 'similar', 'stale')", name="generation_cached"),
        sa.CheckConstraint("outcome IN ('completed', 'refused', 'failed', 'cancelled')", name="generation_outcome"),
        sa.PrimaryKeyConstraint("workspace_id", "request_id"),
    )
    op.create_index("generations_by_time", "generations", ["workspace_id", "created_at"], unique=False)
    op.create_table(
        "llm_cache",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("context_sha256", sa.String(), nullable=False),
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("reply", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "key", "provider", "model"),
    )
    op.create_index(
        "llm_cache_by_context",
        "llm_cache",
        ["workspace_id", "user_id", "action", "context_sha256", "created_at"],
        unique=False,
    )
    op.create_index("llm_cache_by_expiry", "llm_cache", ["expires_at"], unique=False)
    op.create_table(
        "prompts",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "sha256"),
    )
    op.create_index("prompts_by_time", "prompts", ["stored_at"], unique=False)
    op.create_table(
        "spending_caps",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("cap_usd", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("period IN ('day', 'week', 'month')", name="cap_period"),
        sa.PrimaryKeyConstraint("workspace_id", "period"),
    )
    op.create_table(
        "summaries",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("messages", sa.Integer(), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "sha256"),
    )
    op.create_index("summaries_by_time", "summaries", ["created_at"], unique=False)
    op.add_column("outbox", sa.Column("key", sa.String(), nullable=True))
    op.create_unique_constraint("one_event_per_key", "outbox", ["workspace_id", "key"])
    # With defaults: workers of the last release still write events while this one rolls out.
    op.add_column("outbox", sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
    op.add_column(
        "outbox", sa.Column("next_at", sa.DateTime(timezone=True), nullable=True, server_default=sa.func.now())
    )
    op.add_column("outbox", sa.Column("problem", sa.String(), nullable=False, server_default=""))
    op.create_index("outbox_due", "outbox", ["next_at", "id"], unique=False, postgresql_where="next_at IS NOT NULL")
    op.create_index("attempts_by_time", "attempts", ["workspace_id", "started_at"], unique=False)
    op.execute(PAST_DAYS)


def downgrade() -> None:
    op.execute("DELETE FROM budgets WHERE scope LIKE 'day:%'")
    op.drop_index("attempts_by_time", table_name="attempts")
    op.drop_index("outbox_due", table_name="outbox")
    op.drop_constraint("one_event_per_key", "outbox")
    for column in ("key", "tries", "next_at", "problem"):
        op.drop_column("outbox", column)
    for table in ("summaries", "spending_caps", "prompts", "llm_cache", "generations", "cost_alerts", "configuration"):
        op.drop_table(table)
