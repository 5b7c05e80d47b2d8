"""The evidence of labels: how many sessions have one, what it means, and what their users said."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("auto_labels", sa.Column("sessions", sa.Integer(), nullable=True))
    op.add_column("auto_labels", sa.Column("definition", sa.String(), nullable=True))
    op.add_column("auto_labels", sa.Column("examples", JSONB(), nullable=True))


def downgrade() -> None:
    for column in ("examples", "definition", "sessions"):
        op.drop_column("auto_labels", column)
