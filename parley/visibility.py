"""Search attributes: what an operator can filter workflows by. Registered when a cluster is set up."""

import re
from decimal import Decimal
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

WORKSPACE = SearchAttributeKey.for_keyword("ParleyWorkspace")
JOB = SearchAttributeKey.for_keyword("ParleyJob")
STRATEGY = SearchAttributeKey.for_keyword("ParleyStrategy")
PHASE = SearchAttributeKey.for_keyword("ParleyPhase")
STATUS = SearchAttributeKey.for_keyword("ParleyStatus")
COST_USD = SearchAttributeKey.for_float("ParleyCostUsd")
SCORE = SearchAttributeKey.for_float("ParleyScore")

ALL = (WORKSPACE, JOB, STRATEGY, PHASE, STATUS, COST_USD, SCORE)
DEFINITIONS = tuple(f"{key.name}={key.indexed_value_type.name.capitalize()}" for key in ALL)
"""Each name with its type, as Temporal's tools register them."""


def of_start(workspace_id: str, job: str, status: str | None = None) -> TypedSearchAttributes:
    """The search attributes with which a job is started, so that it is found before its first task ends.

    Args:
        workspace_id: the workspace that it belongs to.
        job: the name of its workflow.
        status: what it begins with, for example `running`; None: no status.
    """
    known = [SearchAttributePair(WORKSPACE, workspace_id), SearchAttributePair(JOB, job)]
    return TypedSearchAttributes(known if status is None else [*known, SearchAttributePair(STATUS, status)])


def record_start(workspace_id: str, job: str) -> None:
    """Set workspace, job and status in the workflow, because other clients may start it without search attributes."""
    workflow.upsert_search_attributes(
        [WORKSPACE.value_set(workspace_id), JOB.value_set(job), STATUS.value_set("running")]
    )  # pyright: ignore[reportUnknownMemberType]


def record_owner(workspace_id: str, job: str) -> None:
    """Set workspace and job for a short workflow, unless its starter has set them.

    It sets no status, because each change of search attributes costs the cluster a write and the caller a millisecond.
    """
    if workflow.info().typed_search_attributes.get(WORKSPACE) is None:
        workflow.upsert_search_attributes([WORKSPACE.value_set(workspace_id), JOB.value_set(job)])  # pyright: ignore[reportUnknownMemberType]


def record(key: SearchAttributeKey[str], value: str) -> None:
    """Set a search attribute of the running workflow."""
    workflow.upsert_search_attributes([key.value_set(value)])  # pyright: ignore[reportUnknownMemberType]


def record_end(status: str, *, cost_usd: Decimal | None = None, score: float | None = None) -> None:
    """Set how the running workflow ended, in one write.

    Args:
        status: for example `completed`.
        cost_usd: what all its paid requests have cost, uncertain cost included, in USD. It is for searching, so that a
            float is exact enough; the ledger has the exact cost. None: unknown.
        score: the overall score of a session, 0 to 100. None: there is none.
    """
    updates: list[Any] = [STATUS.value_set(status)]
    if cost_usd is not None:
        updates.append(COST_USD.value_set(float(cost_usd)))
    if score is not None:
        updates.append(SCORE.value_set(float(score)))
    workflow.upsert_search_attributes(updates)


def plain(text: str) -> str:
    """Untrusted text on one line, escaped so that Markdown renders it literally."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~-])", r"\\\1", " ".join(text.split()))
