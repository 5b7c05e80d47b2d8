"""The labels that runs start from, and the second labels of probe sessions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "taxonomies",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("taxonomy_id", sa.String(), nullable=False),
        sa.Column("labels", JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "taxonomy_id"),
    )
    op.add_column("auto_sessions", sa.Column("probe_round", sa.Integer(), nullable=True))
    op.add_column("auto_sessions", sa.Column("probe_intent", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("auto_sessions", "probe_intent")
    op.drop_column("auto_sessions", "probe_round")
    op.drop_table("taxonomies")
