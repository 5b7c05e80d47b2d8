"""The second look in two aspects, each from the labels that the one before has left."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The default stays: workers of the version before insert rows.
    aspect = sa.Column("aspect", sa.String(), nullable=False, server_default="alone")
    op.add_column("auto_reassignments", aspect)
    op.add_column("auto_reassignments", sa.Column("labels", sa.ARRAY(sa.String()), nullable=True))


def downgrade() -> None:
    op.drop_column("auto_reassignments", "labels")
    op.drop_column("auto_reassignments", "aspect")
