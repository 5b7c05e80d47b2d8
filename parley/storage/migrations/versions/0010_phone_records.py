"""Which session of a phone call has recorded its end."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The default stays: workers of the version before insert rows.
    op.add_column("call_sessions", sa.Column("left_session", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("call_sessions", "left_session")
