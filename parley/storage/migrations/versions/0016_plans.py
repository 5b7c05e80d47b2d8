"""The plans by which the batches of a labelling run were cut."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The default stays: workers of the version before insert rows.
    op.add_column("auto_runs", sa.Column("plans", ARRAY(sa.Integer()), nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("auto_runs", "plans")
