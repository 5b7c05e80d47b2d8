"""Which batches of the second look are done, since those in a provider's batch end in any order."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The default stays: workers of the version before insert rows.
    column = sa.Column("is_done", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("auto_reassignments", column)


def downgrade() -> None:
    op.drop_column("auto_reassignments", "is_done")
