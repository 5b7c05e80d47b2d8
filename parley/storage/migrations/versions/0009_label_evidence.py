"""The evidence of labels, and the second look at the labels of sessions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("auto_labels", sa.Column("first_ordinal", sa.Integer(), nullable=True))
    op.add_column("auto_labels", sa.Column("meaning", sa.String(), nullable=True))
    op.add_column("auto_labels", sa.Column("example", sa.String(), nullable=True))
    op.add_column("auto_labels", sa.Column("sessions", sa.Integer(), nullable=True))
    op.add_column("auto_labels", sa.Column("definition", sa.String(), nullable=True))
    op.add_column("auto_labels", sa.Column("examples", JSONB(), nullable=True))
    op.add_column("auto_sessions", sa.Column("better_intent", sa.String(), nullable=True))
    op.add_column("auto_sessions", sa.Column("merged_intent", sa.String(), nullable=True))
    op.create_table(
        "auto_reassignments",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("ordinals", ARRAY(sa.Integer()), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "job_key", "number"),
    )


def downgrade() -> None:
    op.drop_table("auto_reassignments")
    op.drop_column("auto_sessions", "merged_intent")
    op.drop_column("auto_sessions", "better_intent")
    for column in ("examples", "definition", "sessions", "example", "meaning", "first_ordinal"):
        op.drop_column("auto_labels", column)
