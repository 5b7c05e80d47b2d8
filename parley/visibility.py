"""Search attributes: what an operator can filter workflows by. Registered when a cluster is set up."""

import re

from temporalio import workflow
from temporalio.common import SearchAttributeKey

WORKSPACE = SearchAttributeKey.for_keyword("ParleyWorkspace")
JOB = SearchAttributeKey.for_keyword("ParleyJob")
STRATEGY = SearchAttributeKey.for_keyword("ParleyStrategy")
PHASE = SearchAttributeKey.for_keyword("ParleyPhase")
STATUS = SearchAttributeKey.for_keyword("ParleyStatus")

ALL = (WORKSPACE, JOB, STRATEGY, PHASE, STATUS)


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


def plain(text: str) -> str:
    """Untrusted text on one line, escaped so that Markdown renders it literally."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~-])", r"\\\1", " ".join(text.split()))
