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
    """Say whose job this is, and which: whoever starts it by another client need not know of search attributes."""
    workflow.upsert_search_attributes(
        [WORKSPACE.value_set(workspace_id), JOB.value_set(job), STATUS.value_set("running")]
    )  # pyright: ignore[reportUnknownMemberType]


def record_owner(workspace_id: str, job: str) -> None:
    """The same without a status, for a job that is over at once, unless whoever started it has said so: each change
    of these attributes costs the cluster a write, and the caller a millisecond.
    """
    if workflow.info().typed_search_attributes.get(WORKSPACE) is None:
        workflow.upsert_search_attributes([WORKSPACE.value_set(workspace_id), JOB.value_set(job)])  # pyright: ignore[reportUnknownMemberType]


def record(key: SearchAttributeKey[str], value: str) -> None:
    """Set a search attribute of the running workflow."""
    workflow.upsert_search_attributes([key.value_set(value)])  # pyright: ignore[reportUnknownMemberType]


def plain(text: str) -> str:
    """Untrusted text on one line that Markdown shows as it is: no link, no picture, no table of its own."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~-])", r"\\\1", " ".join(text.split()))
