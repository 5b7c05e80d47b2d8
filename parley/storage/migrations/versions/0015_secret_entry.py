"""Which secret entry of a phone call is open, so that it stays secret after its session is lost."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0015"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("call_sessions", sa.Column("secret_entry", JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("call_sessions", "secret_entry")
