"""The probe sessions of a run: which sessions may be probes, and the second labels that they get."""

from collections.abc import Mapping, Sequence

from sqlalchemy import ARRAY, ColumnElement, Integer, String, and_, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from parley.domain.auto_analyze.contract import PROBED_ROUND, LabelKind
from parley.domain.auto_analyze.evidence import DEFINITION_CHARACTERS
from parley.domain.auto_analyze.probing import Pair
from parley.domain.auto_analyze.validation import SessionLabels
from parley.domain.text import one_line
from parley.storage.auto_analyze import CHAT_OF_SESSION, RUN_OF_SESSION
from parley.storage.tables import AutoLabel, AutoRun, AutoSession, StoredChat


async def rounds_of(
    tx: AsyncSession, workspace_id: str, job_key: str, ordinals: Sequence[int], most_tokens: int
) -> dict[int, int]:
    """The rounds of sessions that a reply labelled and that are not longer than so many tokens, in the given order."""
    query = (
        select(col(AutoSession.ordinal), func.coalesce(AutoSession.round, 0))
        .select_from(AutoSession)
        .join(AutoRun, RUN_OF_SESSION)
        .join(StoredChat, CHAT_OF_SESSION)
        .where(
            *_labelled(workspace_id, job_key),
            col(AutoSession.ordinal).in_(ordinals),
            col(StoredChat.tokens) <= most_tokens,
        )
    )
    found = {row[0]: row[1] for row in (await tx.execute(query)).all()}
    return {ordinal: found[ordinal] for ordinal in ordinals if ordinal in found}


async def store(
    tx: AsyncSession,
    workspace_id: str,
    job_key: str,
    found: Mapping[int, SessionLabels],
    said: Mapping[int, str],
    round_number: int,
) -> None:
    """Store the second labels of sessions, by ordinal. Idempotent.

    An intent that no session has takes part in merging, with what this reply says of it.
    """
    if not found:
        return
    arrays = cast([*found], ARRAY(Integer)), cast([one.intent for one in found.values()], ARRAY(String))
    given = func.unnest(*arrays).table_valued("ordinal", "label").render_derived()
    probed = update(AutoSession).where(
        col(AutoSession.workspace_id) == workspace_id,
        col(AutoSession.job_key) == job_key,
        col(AutoSession.ordinal) == given.c.ordinal,
    )
    await (await tx.connection()).execute(probed.values(probe_round=round_number, probe_intent=given.c.label))
    rows = {
        labels.intent: {
            "workspace_id": workspace_id,
            "job_key": job_key,
            "kind": LabelKind.INTENT.value,
            "label": labels.intent,
            "first_round": PROBED_ROUND,
            "meaning": one_line(labels.summary, DEFINITION_CHARACTERS),
            "example": said.get(ordinal),
        }
        for ordinal, labels in sorted(found.items(), reverse=True)
    }
    await tx.execute(insert(AutoLabel).on_conflict_do_nothing(), [rows[label] for label in sorted(rows)])


async def pairs(tx: AsyncSession, workspace_id: str, job_key: str) -> list[Pair]:
    """The intents of each probe: the first and the second one, as they were given and after merging."""
    of_probe = aliased(AutoLabel)
    query = (
        select(
            col(AutoSession.intent),
            col(AutoSession.probe_intent),
            func.coalesce(AutoSession.merged_intent, AutoSession.canonical_intent, AutoSession.intent),
            func.coalesce(of_probe.canonical, AutoSession.probe_intent),
        )
        .outerjoin(
            of_probe,
            and_(
                col(of_probe.workspace_id) == AutoSession.workspace_id,
                col(of_probe.job_key) == AutoSession.job_key,
                col(of_probe.kind) == LabelKind.INTENT.value,
                col(of_probe.label) == AutoSession.probe_intent,
            ),
        )
        .where(*_labelled(workspace_id, job_key), col(AutoSession.probe_intent).is_not(None))
        .order_by(col(AutoSession.ordinal))
    )
    return [Pair(*row) for row in (await tx.execute(query)).all()]


def _labelled(workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    """The sessions of a run that a reply labelled."""
    return (
        col(AutoSession.workspace_id) == workspace_id,
        col(AutoSession.job_key) == job_key,
        col(AutoSession.intent).is_not(None),
        ~col(AutoSession.fallback),
        ~col(AutoSession.by_rule),
    )
