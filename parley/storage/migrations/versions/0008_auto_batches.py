"""Batches of labelling runs that the streams take from a plan, and sessions that are copies of another one."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "auto_batches",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("stream", sa.Integer(), nullable=True),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("labelled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "job_key", "number"),
    )
    op.create_index(
        "auto_batches_open",
        "auto_batches",
        ["workspace_id", "job_key", "number"],
        unique=False,
        postgresql_where=sa.text("NOT labelled"),
    )
    op.add_column("auto_sessions", sa.Column("copy_of", sa.Integer(), nullable=True))
    op.add_column("chat_sessions", sa.Column("transcript_hash", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("chat_sessions", "transcript_hash")
    op.drop_column("auto_sessions", "copy_of")
    op.drop_index("auto_batches_open", "auto_batches")
    op.drop_table("auto_batches")
