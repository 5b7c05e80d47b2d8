"""The first tables. tables.py describes what they hold."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from parley.storage.tables import VECTOR

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "ai_usage_logs",
    "attempts",
    "auto_labels",
    "auto_merges",
    "auto_runs",
    "auto_sessions",
    "breakers",
    "budgets",
    "chat_sessions",
    "configuration",
    "console_sessions",
    "conversation_turns",
    "conversations",
    "cost_alerts",
    "cost_corrections",
    "datasets",
    "energy_accounts",
    "energy_entries",
    "gateway_keys",
    "generations",
    "knowledge_chunks",
    "knowledge_documents",
    "llm_cache",
    "memories",
    "outbox",
    "paid_requests",
    "prompts",
    "purge_marks",
    "recordings",
    "replies",
    "session_analyses",
    "sessions",
    "spending_caps",
    "stream_chunks",
    "streams",
    "summaries",
    "usage_totals",
    "phone_numbers",
    "call_sessions",
)
# How phone calls were served, by hour: one row for each workspace, number and hour with a turn.
SYSTEM_METRICS = """
    CREATE VIEW system_metrics AS
    SELECT c.workspace_id, c.number, date_trunc('hour', t.created_at) AS hour,
           count(DISTINCT c.call_sid) AS phone_calls,
           count(*) AS turns,
           avg(t.response_ms) AS response_ms_average,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY t.response_ms) AS response_ms_p95,
           coalesce(sum(t.audio_ms), 0) AS audio_ms,
           count(*) FILTER (WHERE t.heard IS NOT NULL) AS interruptions,
           count(*) FILTER (WHERE t.error NOT IN ('', 'SessionEnded')) AS errors
    FROM call_sessions c
    JOIN conversation_turns t ON (t.workspace_id, t.conversation_id) = (c.workspace_id, c.call_sid)
    GROUP BY 1, 2, 3"""


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.create_table(
        "ai_usage_logs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("prospect_id", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("answered_by", sa.String(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("tokens_prompt", sa.Integer(), nullable=False),
        sa.Column("tokens_cached", sa.Integer(), nullable=False),
        sa.Column("tokens_cache_written", sa.Integer(), nullable=False),
        sa.Column("tokens_completion", sa.Integer(), nullable=False),
        sa.Column("tokens_total", sa.Integer(), nullable=False),
        sa.Column("audio_seconds", sa.Numeric(precision=12, scale=3), nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("energy_charged", sa.Integer(), nullable=False),
        sa.Column("rates", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("attempt_id", name="one_row_per_attempt"),
    )
    op.create_index("ai_usage_logs_by_job", "ai_usage_logs", ["workspace_id", "job_key"], unique=False)
    op.create_index("ai_usage_logs_by_time", "ai_usage_logs", ["workspace_id", "created_at"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("billed", sa.String(), nullable=False),
        sa.Column("upper_bound_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=24, scale=12), nullable=True),
        sa.Column("rates", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("breaker_generation", sa.Integer(), nullable=False),
        sa.Column("fleet_generation", sa.Integer(), nullable=True),
        sa.Column("error_type", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('open', 'settled', 'duplicate', 'lost', 'failed')", name="attempt_state"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("workspace_id", "request_id", "number", name="attempts_are_numbered"),
    )
    op.create_index("attempts_by_time", "attempts", ["workspace_id", "started_at"], unique=False)
    op.create_table(
        "auto_labels",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("first_round", sa.Integer(), nullable=False),
        sa.Column("canonical", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("workspace_id", "job_key", "kind", "label"),
    )
    op.create_table(
        "auto_merges",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("canonical", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "job_key", "kind", "level", "label"),
    )
    op.create_table(
        "auto_runs",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("settings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("statistics", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("workspace_id", "job_key"),
    )
    op.create_index("auto_runs_by_workflow", "auto_runs", ["workspace_id", "workflow_id"], unique=False)
    op.create_table(
        "auto_sessions",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("condensed", sa.String(), nullable=True),
        sa.Column("phase", sa.String(), nullable=True),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("stream", sa.Integer(), nullable=True),
        sa.Column("intent", sa.String(), nullable=True),
        sa.Column("transfer_reason", sa.String(), nullable=True),
        sa.Column("drop_off_location", sa.String(), nullable=True),
        sa.Column("canonical_intent", sa.String(), nullable=True),
        sa.Column("canonical_transfer_reason", sa.String(), nullable=True),
        sa.Column("canonical_drop_off_location", sa.String(), nullable=True),
        sa.Column("summary", sa.String(), nullable=True),
        sa.Column("fallback", sa.Boolean(), nullable=False),
        sa.Column("by_rule", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "job_key", "ordinal"),
    )
    op.create_index("auto_sessions_by_position", "auto_sessions", ["workspace_id", "job_key", "position"], unique=True)
    op.create_table(
        "breakers",
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing", postgresql.ARRAY(sa.String()), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("open_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("probe_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("provider", "workspace_id"),
    )
    op.create_table(
        "budgets",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("cap_usd", sa.Numeric(precision=24, scale=12), nullable=True),
        sa.Column("reserved_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("confirmed_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("uncertain_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.CheckConstraint("reserved_usd >= 0 AND uncertain_usd >= 0", name="never_negative"),
        sa.PrimaryKeyConstraint("workspace_id", "scope"),
    )
    op.create_table(
        "chat_sessions",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("containment", sa.String(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "dataset_id", "position"),
        sa.UniqueConstraint("workspace_id", "dataset_id", "session_id", name="one_session_per_id"),
    )
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
        "console_sessions",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_index("console_sessions_by_expiry", "console_sessions", ["expires_at"], unique=False)
    op.create_table(
        "conversation_turns",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("conversation_id", sa.String(), nullable=False),
        sa.Column("turn_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("terms", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("answer", sa.String(), nullable=True),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("meta", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("context_sha256", sa.String(), nullable=False),
        sa.Column("heard", sa.String(), nullable=True),
        sa.Column("response_ms", sa.Integer(), nullable=True),
        sa.Column("audio_ms", sa.Integer(), nullable=True),
        sa.Column("knowledge_used", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("outcome IN ('', 'completed', 'refused', 'failed', 'cancelled')", name="turn_outcome"),
        sa.PrimaryKeyConstraint("workspace_id", "conversation_id", "turn_id"),
    )
    op.create_index(
        "conversation_turns_by_number",
        "conversation_turns",
        ["workspace_id", "conversation_id", "number"],
        unique=True,
    )
    op.create_table(
        "conversations",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("conversation_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("summary", sa.String(), nullable=False),
        sa.Column("summarized_through", sa.Integer(), nullable=False),
        sa.Column("summary_tokens", sa.Integer(), nullable=False),
        sa.Column("instructions", sa.String(), nullable=False),
        sa.Column("turns", sa.Integer(), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_turn_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "conversation_id"),
    )
    op.create_index("conversations_by_age", "conversations", ["last_turn_at"], unique=False)
    op.create_index("conversations_newest", "conversations", ["workspace_id", "last_turn_at"], unique=False)
    op.create_table(
        "cost_alerts",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("threshold_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("spent_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("uncertain_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "period"),
    )
    op.create_table(
        "cost_corrections",
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("upper_bound_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("attempt_id"),
    )
    op.create_table(
        "datasets",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("sessions", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "dataset_id"),
    )
    op.create_table(
        "energy_accounts",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("tier", sa.String(), nullable=False),
        sa.Column("granted", sa.Integer(), nullable=False),
        sa.Column("charged", sa.Integer(), nullable=False),
        sa.Column("charged_earlier", sa.Integer(), nullable=False),
        sa.Column("reserved", sa.Integer(), nullable=False),
        sa.CheckConstraint("reserved >= 0 AND charged >= 0 AND granted >= charged + reserved", name="no_overdraft"),
        sa.PrimaryKeyConstraint("workspace_id", "user_id"),
    )
    op.create_table(
        "energy_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("amount", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("grant_key", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("workspace_id", "user_id", "grant_key", name="one_grant_per_key"),
    )
    op.create_index("energy_entries_by_user", "energy_entries", ["workspace_id", "user_id", "request_id"], unique=False)
    op.create_table(
        "gateway_keys",
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.String()), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=False),
        sa.Column("concurrent_streams", sa.Integer(), nullable=False),
        sa.Column("mode", sa.String(), nullable=True),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=True),
        sa.Column("minute_requests", sa.Integer(), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key_id"),
        sa.UniqueConstraint("sha256", name="one_key_per_hash"),
    )
    op.create_index("gateway_keys_by_workspace", "gateway_keys", ["workspace_id", "created_at"], unique=False)
    op.create_table(
        "generations",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
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
        sa.Column("cost_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("saved_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("quality", sa.Numeric(precision=4, scale=3), nullable=True),
        sa.Column("feedback", sa.String(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("cached IN ('', 'exact', 'similar', 'stale')", name="generation_cached"),
        sa.CheckConstraint("outcome IN ('completed', 'refused', 'failed', 'cancelled')", name="generation_outcome"),
        sa.PrimaryKeyConstraint("workspace_id", "request_id"),
    )
    op.create_index("generations_by_age", "generations", ["created_at"], unique=False)
    op.create_index(
        "generations_by_cached_answer",
        "generations",
        ["attempt_id"],
        unique=False,
        postgresql_where="cached <> ''",
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
        sa.Column("cost_usd", sa.Numeric(precision=24, scale=12), nullable=False),
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
    op.create_index("llm_cache_by_attempt", "llm_cache", ["attempt_id"], unique=False)
    op.create_index("llm_cache_by_expiry", "llm_cache", ["expires_at"], unique=False)
    op.create_table(
        "memories",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("memory_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("predicate", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("importance", sa.Float(), nullable=False),
        sa.Column("conversation_id", sa.String(), nullable=False),
        sa.Column("turn_id", sa.String(), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=True),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("embedding", VECTOR, nullable=True),
        sa.Column("embedded_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "memory_id"),
    )
    op.create_index(
        "memories_by_end", "memories", ["valid_until"], unique=False, postgresql_where="valid_until IS NOT NULL"
    )
    op.create_index("memories_by_user", "memories", ["workspace_id", "user_id", "valid_from"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=True),
        sa.Column("attempt_id", sa.Uuid(), nullable=True),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("workspace_id", "key", name="one_event_per_key"),
    )
    op.create_index("outbox_by_age", "outbox", ["created_at"], unique=False)
    op.create_index("outbox_due", "outbox", ["next_at", "id"], unique=False, postgresql_where="next_at IS NOT NULL")
    op.create_table(
        "paid_requests",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("result_id", sa.String(), nullable=True),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("prospect_id", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("owner_attempt_id", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_attempt_id", sa.Uuid(), nullable=True),
        sa.Column("energy_price", sa.Integer(), nullable=False),
        sa.Column("energy_reserved", sa.Integer(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('open', 'settled')", name="paid_request_state"),
        sa.PrimaryKeyConstraint("workspace_id", "request_id"),
    )
    op.create_index("paid_requests_by_age", "paid_requests", ["expires_at"], unique=False)
    op.create_index("paid_requests_by_job", "paid_requests", ["workspace_id", "job_key", "expires_at"], unique=False)
    op.create_index(
        "paid_requests_by_result",
        "paid_requests",
        ["workspace_id", "result_id"],
        unique=False,
        postgresql_where="result_id IS NOT NULL",
    )
    op.create_index(
        "paid_requests_by_lease",
        "paid_requests",
        ["lease_until"],
        unique=False,
        postgresql_where="owner_attempt_id IS NOT NULL",
    )
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
        "purge_marks",
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("before", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subject"),
    )
    op.create_table(
        "recordings",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("seconds", sa.Numeric(precision=12, scale=3), nullable=False),
        sa.Column("audio", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "sha256"),
    )
    op.create_index("recordings_by_age", "recordings", ["created_at"], unique=False)
    op.create_table(
        "replies",
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("attempt_id"),
    )
    op.create_table(
        "session_analyses",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("session_sha256", sa.String(), nullable=False),
        sa.Column("recording_sha256", sa.String(), nullable=True),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("voice_metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("coaching", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("workspace_id", "job_key"),
    )
    op.create_index(
        "session_analyses_by_session",
        "session_analyses",
        ["workspace_id", "session_id", "session_sha256"],
        unique=False,
    )
    op.create_index("session_analyses_by_age", "session_analyses", ["created_at"], unique=False)
    op.create_index(
        "session_analyses_by_recording", "session_analyses", ["workspace_id", "recording_sha256"], unique=False
    )
    op.create_index("session_analyses_by_workflow", "session_analyses", ["workspace_id", "workflow_id"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "session_id", "sha256"),
    )
    op.create_index("sessions_by_age", "sessions", ["created_at"], unique=False)
    op.create_table(
        "spending_caps",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("cap_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("period IN ('day', 'week', 'month')", name="cap_period"),
        sa.PrimaryKeyConstraint("workspace_id", "period"),
    )
    op.create_table(
        "stream_chunks",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("stream_id", sa.String(), nullable=False),
        sa.Column("first_offset", sa.Integer(), nullable=False),
        sa.Column("deltas", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "stream_id", "first_offset"),
    )
    op.create_table(
        "streams",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("stream_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("receivers", postgresql.ARRAY(sa.String()), nullable=False),
        sa.Column("paid_request_id", sa.String(), nullable=False),
        sa.Column("attempt_id", sa.String(), nullable=False),
        sa.Column("starts_at", sa.Integer(), nullable=False),
        sa.Column("reply", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("workspace_id", "stream_id"),
    )
    op.create_index("streams_by_age", "streams", ["created_at"], unique=False)
    op.create_index("streams_by_end", "streams", ["ended_at"], unique=False)
    op.create_table(
        "summaries",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("messages", sa.Integer(), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "sha256"),
    )
    op.create_index("summaries_by_attempt", "summaries", ["attempt_id"], unique=False)
    op.create_index("summaries_by_time", "summaries", ["created_at"], unique=False)
    op.create_table(
        "usage_totals",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("tokens_total", sa.BigInteger(), nullable=False),
        sa.Column("audio_seconds", sa.Numeric(precision=18, scale=3), nullable=False),
        sa.Column("confirmed_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("uncertain_usd", sa.Numeric(precision=24, scale=12), nullable=False),
        sa.Column("energy_charged", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "day", "provider", "model", "action", "simulated"),
    )
    op.create_table(
        "knowledge_documents",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("characters", sa.Integer(), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("vectors", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "document_id"),
        sa.UniqueConstraint("workspace_id", "name", name="one_document_per_name"),
    )
    op.create_table(
        "knowledge_chunks",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("heading", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("words", postgresql.TSVECTOR(), nullable=False),
        sa.Column("embedding", VECTOR, nullable=True),
        sa.Column("embedded_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "document_id", "number"),
    )
    op.create_index("knowledge_chunks_by_words", "knowledge_chunks", ["words"], postgresql_using="gin")
    op.create_table(
        "phone_numbers",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("number", sa.String(), nullable=False),
        sa.Column("settings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "number"),
        sa.UniqueConstraint("number", name="one_workspace_per_number"),
    )
    op.create_table(
        "call_sessions",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("call_sid", sa.String(), nullable=False),
        sa.Column("number", sa.String(), nullable=False),
        sa.Column("caller", sa.String(), nullable=False),
        sa.Column("direction", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("account_sid", sa.String(), nullable=False),
        sa.Column("parent_call_sid", sa.String(), nullable=False),
        sa.Column("forwarded_from", sa.String(), nullable=False),
        sa.Column("caller_name", sa.String(), nullable=False),
        sa.Column("language", sa.String(), nullable=False),
        sa.Column("parameters", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("handoff", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("sessions", sa.Integer(), nullable=False),
        sa.Column("interruptions", sa.Integer(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("keys", sa.Integer(), nullable=False),
        sa.Column("analysis", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("direction IN ('inbound', 'outbound', 'console')", name="call_direction"),
        sa.PrimaryKeyConstraint("workspace_id", "call_sid"),
    )
    op.create_index("call_sessions_newest", "call_sessions", ["workspace_id", "started_at"], unique=False)
    op.create_index(
        "call_sessions_open", "call_sessions", ["workspace_id"], unique=False, postgresql_where="ended_at IS NULL"
    )
    op.create_index("call_sessions_by_age", "call_sessions", ["started_at"], unique=False)
    op.execute(SYSTEM_METRICS)


def downgrade() -> None:
    op.execute("DROP VIEW system_metrics")
    for table in TABLES:
        op.drop_table(table)
