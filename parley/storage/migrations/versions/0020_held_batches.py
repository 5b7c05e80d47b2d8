"""An index by which a stream finds the batch that it holds: without it, every settled batch scans all open ones."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "auto_batches_held",
        "auto_batches",
        ["workspace_id", "job_key", "stream", "number"],
        unique=False,
        postgresql_where=sa.text("NOT labelled AND stream IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("auto_batches_held", "auto_batches")
