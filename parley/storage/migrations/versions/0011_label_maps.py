"""The quotes of labels, and the versions of a run's label map with what made each merge."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

QUOTES = ("intent_quote", "transfer_reason_quote", "drop_off_location_quote")


def upgrade() -> None:
    for column in QUOTES:
        op.add_column("auto_sessions", sa.Column(column, sa.String(), nullable=True))
    op.add_column("auto_merges", sa.Column("request_id", sa.String(), nullable=True))
    op.add_column("auto_runs", sa.Column("review_until", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "auto_label_maps",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=True),
        sa.Column("sources", JSONB(), nullable=False),
        sa.Column("target", sa.String(), nullable=True),
        sa.Column("labels", JSONB(), nullable=False),
        sa.Column("reassigned", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "job_key", "version"),
    )


def downgrade() -> None:
    op.drop_table("auto_label_maps")
    op.drop_column("auto_runs", "review_until")
    op.drop_column("auto_merges", "request_id")
    for column in QUOTES:
        op.drop_column("auto_sessions", column)
