"""The label map of a run: proposed to a person, approved, applied to sessions."""

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.auto_analyze.evidence import LAST_LEVEL
from activities.boundary import boundary
from parley.domain.auto_analyze.contract import Job, LabelKind
from parley.domain.auto_analyze.label_maps import LabelMap, MapAction
from parley.domain.auto_analyze.labels import duplicates
from parley.domain.auto_analyze.steps import (
    AppliedConflicts,
    ApplyConflicts,
    ApproveStep,
    LabelsApproved,
    ProposedMerges,
    ProposeMerges,
)
from parley.storage import auto_analyze as runs
from parley.storage import label_maps
from parley.storage.database import Database
from parley.storage.label_maps import Change
from parley.storage.tables import AutoLabelMap


class LabelMapActivities:
    """Activities of one worker, on its database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="auto_analyze.propose_merges")
    @boundary
    async def propose(self, step: ProposeMerges) -> ProposedMerges:
        """Make the version of the label map that a person looks at. No session has its labels yet."""
        scope = (step.job.input.workspace_id, step.job.job_key)
        async with self._database.transaction(bulk=True) as tx:
            state = await _merged(tx, step.job)
            merges = sum(_mappings(state).values())
            if merges:
                await label_maps.begin_review(tx, *scope, seconds=step.job.input.review_limit_seconds)
        return ProposedMerges(merges=merges)

    @activity.defn(name="auto_analyze.approve_labels")
    @boundary
    async def approve(self, step: ApproveStep) -> LabelsApproved:
        """Record that a version is approved, once.

        Raises:
            LabelsChanged: the labels have another version by now.
        """
        scope = (step.job.input.workspace_id, step.job.job_key)
        async with self._database.transaction() as tx:
            await label_maps.lock(tx, *scope)
            found = await label_maps.begin(tx, *scope)
            if _is_approval_of(found, step):
                return LabelsApproved(version=found.version)
            label_maps.check_version(found, step.given.version)
            state = await label_maps.state_of(tx, found)
            change = Change(MapAction.APPROVED, step.given.made_by)
            approved = await label_maps.add(tx, *scope, state, change, parent=label_maps.parent_of(found))
            await label_maps.end_review(tx, *scope)
        return LabelsApproved(version=approved.version)

    @activity.defn(name="auto_analyze.apply_conflicts")
    @boundary
    async def apply_conflicts(self, step: ApplyConflicts) -> AppliedConflicts:
        """Write the canonical labels to labels and sessions, all in one transaction.

        After a review these are the labels that it has left.
        """
        scope = (step.job.input.workspace_id, step.job.job_key)
        async with self._database.transaction(bulk=True) as tx:
            if step.reviewed is None:
                state = await _merged(tx, step.job)
            else:
                await label_maps.lock(tx, *scope)
                state = await label_maps.state_of(tx, await label_maps.begin(tx, *scope))
                await label_maps.end_review(tx, *scope)
            if not state.reassigned:
                # A run that is reset may end before its second look, or find something else.
                await label_maps.drop_second_look(tx, *scope)
            await label_maps.apply(tx, *scope, state)
        return AppliedConflicts(
            canonical_labels={kind: len(one.members) for kind, one in state.kinds.items()},
            canonical_mappings=_mappings(state),
        )


async def _merged(tx: AsyncSession, job: Job) -> LabelMap:
    """The state of the version that merging makes."""
    scope = (job.input.workspace_id, job.job_key)
    await label_maps.lock(tx, *scope)
    mappings: dict[LabelKind, Mapping[str, str]] = {
        kind: await runs.canonical_labels(tx, *scope, kind, LAST_LEVEL) for kind in LabelKind
    }
    version = await label_maps.record_merges(tx, *scope, mappings)
    return await label_maps.state_of(tx, version)


def _mappings(state: LabelMap) -> dict[LabelKind, int]:
    """By kind, how many of the labels that were found have another canonical label."""
    return {
        kind: duplicates({label: into for into, members in one.members.items() for label in members})
        for kind, one in state.kinds.items()
    }


def _is_approval_of(found: AutoLabelMap, step: ApproveStep) -> bool:
    """Whether a step that is repeated has stored its approval already."""
    is_next = found.version == step.given.version + 1
    return found.action == MapAction.APPROVED and is_next and found.made_by == step.given.made_by
