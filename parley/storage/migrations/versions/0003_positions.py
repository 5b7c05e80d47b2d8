"""A run's sessions by their place in the file: exports page through them."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("auto_sessions_by_position", "auto_sessions", ["workspace_id", "job_key", "position"], unique=True)


def downgrade() -> None:
    op.drop_index("auto_sessions_by_position", table_name="auto_sessions")
