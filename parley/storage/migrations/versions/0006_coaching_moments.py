"""Rubrics, and analyses whose strengths and improvements point to moments."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Earlier results had four fixed skills and points without moments. They stay readable; without a rubric they are not
# compared with later ones.
CONVERT = """
    CREATE FUNCTION pg_temp.points(points jsonb) RETURNS jsonb LANGUAGE sql AS $$
        SELECT coalesce(jsonb_agg(jsonb_build_object('text', point)), '[]') FROM jsonb_array_elements_text(points) point
    $$;
    CREATE FUNCTION pg_temp.skill(one jsonb, id text, title text, weight int) RETURNS jsonb LANGUAGE sql AS $$
        SELECT one -> id || jsonb_build_object('id', id, 'title', title, 'weight', weight)
    $$;
    CREATE FUNCTION pg_temp.converted(one jsonb) RETURNS jsonb LANGUAGE sql AS $$
        SELECT jsonb_build_object(
            'rubric', jsonb_build_object(
                'id', 'sales', 'version', 0, 'title', 'Sales call', 'user', 'sales rep', 'other', 'prospect'),
            'overall_score', one -> 'overall_score',
            'skills', jsonb_build_array(
                pg_temp.skill(one, 'opening_technique', 'Opening', 20),
                pg_temp.skill(one, 'questioning_skills', 'Questioning', 30),
                pg_temp.skill(one, 'objection_handling', 'Objection handling', 30),
                pg_temp.skill(one, 'closing_technique', 'Closing', 20)),
            'strengths', pg_temp.points(one -> 'strengths'),
            'improvements', pg_temp.points(one -> 'improvements'),
            'processed', one -> 'processed',
            'fallback', one -> 'fallback')
    $$;
    UPDATE session_analyses SET coaching = pg_temp.converted(coaching) WHERE coaching ? 'opening_technique';
    UPDATE session_analyses SET result = jsonb_set(result, '{coaching}', pg_temp.converted(result -> 'coaching'))
    WHERE result -> 'coaching' ? 'opening_technique'
"""


def upgrade() -> None:
    op.create_table(
        "rubrics",
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("rubric_id", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "rubric_id", "version"),
    )
    op.add_column("session_analyses", sa.Column("rubric", sa.String(), nullable=False, server_default=""))
    op.alter_column("session_analyses", "rubric", server_default=None)
    op.create_index(
        "session_analyses_by_user",
        "session_analyses",
        ["workspace_id", "user_id", "rubric", "created_at"],
        unique=False,
    )
    op.execute(CONVERT)


def downgrade() -> None:
    op.drop_index("session_analyses_by_user", "session_analyses")
    op.drop_column("session_analyses", "rubric")
    op.drop_table("rubrics")
