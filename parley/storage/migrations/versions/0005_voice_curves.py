"""What is measured on the sound of a recording; and results in the shape that has it.

Metrics of earlier results that were guessed from word times are removed; what they did not measure is named.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

REASON = "not measured by the version that made this result"
NEW_SHAPE = """
UPDATE session_analyses SET result = result || jsonb_build_object(
    'voice_metrics', jsonb_build_object(
        'source', CASE result #>> '{voice_metrics,source}' WHEN 'transcript' THEN 'transcript' ELSE 'recording' END,
        'pace', result #> '{voice_metrics,pace}',
        'pace_wpm', result #> '{voice_metrics,pace_wpm}',
        'clarity', result #> '{voice_metrics,clarity}',
        'mean_confidence', result #> '{voice_metrics,mean_confidence}',
        'not_measured', (SELECT jsonb_object_agg(name, CAST(:reason AS text))
            FROM unnest(ARRAY['pauses', 'tonality', 'energy', 'emotional_inflection', 'harmonics_to_noise']) AS name)
            || CASE WHEN result #>> '{voice_metrics,clarity}' IS NULL
               THEN jsonb_build_object('clarity', CAST(:reason AS text)) ELSE '{}' END),
    'habits', (result -> 'habits') - 'pace_wpm' || jsonb_build_object('not_measured', jsonb_build_object(
        'response_latency_seconds', CAST(:reason AS text), 'interruptions', CAST(:reason AS text))))
WHERE result -> 'voice_metrics' ? 'rate_variation'"""


def upgrade() -> None:
    for name in ("acoustics", "curves"):
        op.add_column("session_analyses", sa.Column(name, postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.execute(sa.text("UPDATE session_analyses SET voice_metrics = NULL WHERE voice_metrics ? 'rate_variation'"))
    op.execute(sa.text(NEW_SHAPE).bindparams(reason=REASON))


def downgrade() -> None:
    for name in ("curves", "acoustics"):
        op.drop_column("session_analyses", name)
