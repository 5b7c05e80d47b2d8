"""Submissions of paid requests to a provider's batch API, and the attempts in each."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "submissions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("vendor_id", sa.String(), nullable=True),
        sa.Column("next_step", sa.Integer(), nullable=True),
        sa.Column("problem", sa.String(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('claiming', 'sending', 'sent', 'refused', 'ended')", name="submission_state"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("submissions_of_job", "submissions", ["workspace_id", "job_key"], unique=False)
    op.create_table(
        "submission_lines",
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("submission_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("attempt_id"),
    )
    op.create_index("submission_lines_of", "submission_lines", ["submission_id"], unique=False)


def downgrade() -> None:
    op.drop_table("submission_lines")
    op.drop_table("submissions")
