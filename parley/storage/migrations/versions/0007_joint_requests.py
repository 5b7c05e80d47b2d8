"""Attempts at several requests that are sent to a provider as one."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("joint_id", sa.Uuid(), nullable=True))
    op.create_index("attempts_by_joint", "attempts", ["joint_id"], postgresql_where=sa.text("joint_id IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("attempts_by_joint", "attempts", postgresql_where=sa.text("joint_id IS NOT NULL"))
    op.drop_column("attempts", "joint_id")
