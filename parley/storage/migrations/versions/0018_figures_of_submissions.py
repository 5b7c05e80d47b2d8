"""The figures of a submission, for a step that is repeated after it has settled all lines."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The defaults stay: workers of the version before insert rows.
    saved = sa.Column("saved_usd", sa.Numeric(precision=24, scale=12), nullable=False, server_default="0")
    op.add_column("submissions", saved)
    op.add_column("submissions", sa.Column("odd_lines", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("submissions", "odd_lines")
    op.drop_column("submissions", "saved_usd")
