"""The labels of a labelling run, and what a person changes in them: merge, split, rename, undo, approve."""

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from parley.client.backend import Backend
from parley.client.jobs import true_status
from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.evidence import LabelEvidence, combined
from parley.domain.auto_analyze.label_maps import (
    MAX_REASON_CHARACTERS,
    CanonicalLabel,
    KindMap,
    LabelMap,
    LabelMapVersion,
    LabelMapView,
    LabelPair,
    MapAction,
    MergedBy,
    MergedLabel,
)
from parley.domain.errors import InvalidInput, LabelsChanged
from parley.domain.text import one_line
from parley.storage import auto_analyze as runs
from parley.storage import label_evidence, label_explorer, label_maps
from parley.storage.label_maps import Change, RunMerge
from parley.storage.tables import AutoLabelMap, AutoRun

OPERATOR = "operator"
BY_SPELLING = "written alike but for case, blanks, hyphens, an apostrophe or a plural"


# Makes the labels of a new version and the number of its parent, from the latest version.
_Make = Callable[[AsyncSession, AutoLabelMap], Awaitable[tuple[LabelMap, int]]]


class LabelMaps:
    """The labels of one run. `AutoAnalyzeHandle.labels` has it.

    Every change makes a version of the map from the labels that were found to their canonical labels, in one
    transaction with the canonical labels of all sessions. The label that a session was given first never changes.
    While the run waits for a review, sessions get what is changed with the approval.

    The changes share their last arguments. `version`: of the labels that the caller has seen; default: whatever they
    are now. `reason`: why, for the history. `made_by`: who, for the history.
    """

    def __init__(self, backend: Backend, workspace_id: str, job_id: str, job_key: str) -> None:
        self._backend, self._workspace_id, self._job_id, self._job_key = backend, workspace_id, job_id, job_key

    async def show(self, kind: LabelKind | None = None) -> LabelMapView:
        """The labels as they are now: sessions, definitions, examples, and what was merged into each and why.

        Args:
            kind: only labels of this kind; default: of all kinds.

        Raises:
            NotFound: there is no such job.
        """
        scope = (self._workspace_id, self._job_key)
        kinds = [*LabelKind] if kind is None else [kind]
        async with self._backend.database.transaction(bulk=True) as tx:
            run = await runs.find(tx, *scope)
            number, state = await label_maps.latest_state(tx, *scope)
            history = {one.version: one for one in await label_maps.history(tx, *scope)}
            history = history or {number: _unrecorded(run)}
            merges = await label_maps.run_merges(tx, *scope)
            labels: list[CanonicalLabel] = []
            for one in kinds:
                evidence = await label_evidence.evidence(tx, *scope, one)
                counts = await label_maps.session_counts(tx, *scope, one, reassigned=state.reassigned)
                rounds = await label_explorer.first_rounds(tx, *scope, one)
                described = _Described(one, state.kinds[one], evidence, counts, rounds, merges[one], history)
                labels += described.labels()
        return LabelMapView(
            version=number or None,
            review_until=run.review_until if run.ended_at is None else None,
            labels=tuple(labels),
        )

    async def history(self) -> list[LabelMapVersion]:
        """The versions of the labels, the oldest first: what made each, when and why."""
        async with self._backend.database.reads() as tx:
            return await label_maps.history(tx, self._workspace_id, self._job_key)

    async def is_in_review(self) -> bool:
        """Whether the run waits for a review of its merges.

        Raises:
            InvalidInput: it is not finished, and does not wait for one.
            NotFound: there is no such job.
        """
        async with self._backend.database.reads() as tx:
            run = await runs.find(tx, self._workspace_id, self._job_key)
        if await self._has_ended(run):
            return False
        if run.review_until is None:
            raise InvalidInput("the run is not finished: its labels can be changed when it is", where=self._job_id)
        return True

    async def merge(
        self,
        label: str,
        into: str,
        *,
        kind: LabelKind = LabelKind.INTENT,
        version: int | None = None,
        reason: str = "",
        made_by: str = OPERATOR,
    ) -> LabelMapVersion:
        """Merge a canonical label into another one.

        Raises:
            InvalidInput: both are the same, or the run is not finished.
            LabelsChanged: the labels have another version.
            NotFound: there is no such label.
        """
        change = Change(MapAction.MERGE, made_by, reason, kind, [label], into)
        return await self._change(change, version, lambda labels, number: labels.merged(label, into, number))

    async def split(
        self,
        label: str,
        out: Sequence[str],
        *,
        kind: LabelKind = LabelKind.INTENT,
        version: int | None = None,
        reason: str = "",
        made_by: str = OPERATOR,
    ) -> LabelMapVersion:
        """Take labels out of the canonical label that they were merged into. Each is its own again.

        Args:
            label: the canonical label.
            out: labels as they were found, of those in `merged` of `show`.

        Raises:
            InvalidInput: nothing would be left, or the run is not finished.
            LabelsChanged: the labels have another version.
            NotFound: there is no such label.
        """
        change = Change(MapAction.SPLIT, made_by, reason, kind, out, label)
        return await self._change(change, version, lambda labels, _: labels.split(label, out))

    async def rename(
        self,
        label: str,
        name: str,
        *,
        kind: LabelKind = LabelKind.INTENT,
        version: int | None = None,
        reason: str = "",
        made_by: str = OPERATOR,
    ) -> LabelMapVersion:
        """Give a canonical label another name, of at most 80 characters.

        Raises:
            InvalidInput: the name is blank, too long or in use, or the run is not finished.
            LabelsChanged: the labels have another version.
            NotFound: there is no such label.
        """
        change = Change(MapAction.RENAME, made_by, reason, kind, [label], name)
        return await self._change(change, version, lambda labels, number: labels.renamed(label, name, number))

    async def undo(self, *, version: int | None = None, reason: str = "", made_by: str = OPERATOR) -> LabelMapVersion:
        """Return to the labels before the last change: of a person, of the second look, or of merging.

        Raises:
            InvalidInput: the labels are as they were found, or the run is not finished.
            LabelsChanged: the labels have another version.
        """
        scope = (self._workspace_id, self._job_key)

        async def before_last(tx: AsyncSession, latest: AutoLabelMap) -> tuple[LabelMap, int]:
            last = await label_maps.version(tx, *scope, label_maps.parent_of(latest))
            if last.parent is None:
                raise InvalidInput("the labels are as they were found: there is nothing to undo")
            before = await label_maps.version(tx, *scope, last.parent)
            if last.reassigned and not before.reassigned:
                await label_maps.drop_second_look(tx, *scope)
            return await label_maps.state_of(tx, before), before.version

        return await self._add_version(Change(MapAction.UNDO, made_by, reason), before_last, version)

    async def reject(
        self,
        pairs: Sequence[LabelPair],
        *,
        version: int | None = None,
        reason: str = "",
        made_by: str = OPERATOR,
    ) -> LabelMapVersion:
        """Take several labels out of the canonical labels that they were merged into, in one version.

        Raises:
            InvalidInput: there are none, nothing would be left of one, or the run is not finished.
            LabelsChanged: the labels have another version.
            NotFound: there is no such label.
        """
        if not pairs:
            raise InvalidInput("names no merge to reject")
        return await self._add_version(*_rejection(pairs, reason, made_by), version)

    async def revise(
        self,
        *,
        rejected: Sequence[LabelPair] = (),
        added: Sequence[LabelPair] = (),
        version: int | None = None,
        made_by: str = OPERATOR,
    ) -> int:
        """Make what a review changes, all of it or nothing, and once: the same changes again add no version.

        Args:
            rejected: labels to take out of the canonical labels that they were merged into.
            added: merges to make after that, each as a version of its own.
            version: of the labels that the caller has seen; default: whatever they are now.
            made_by: who, for the history.

        Returns:
            The number of the latest version.

        Raises:
            InvalidInput: a merge cannot be rejected or made, or the run is not finished.
            LabelsChanged: the labels have another version.
            NotFound: there is no such label.
        """
        edits = [_rejection(rejected, "", made_by)] if rejected else []
        edits += [_addition(pair, made_by) for pair in added]
        return await self._add_versions(edits, version)

    async def _change(
        self, change: Change, version: int | None, edit: Callable[[KindMap, int], KindMap]
    ) -> LabelMapVersion:
        return await self._add_version(change, _edited(_of_kind(change.kind or LabelKind.INTENT, edit)), version)

    async def _add_version(self, change: Change, make: _Make, version: int | None) -> LabelMapVersion:
        return await self._version(await self._add_versions([(change, make)], version, again=True))

    async def _add_versions(
        self, edits: Sequence[tuple[Change, _Make]], version: int | None, *, again: bool = False
    ) -> int:
        """Add versions in one transaction, and apply the last one to the sessions, unless the run waits for a review.

        Args:
            edits: each change with what makes its version.
            version: the one to be changed.
            again: also if the latest versions are these changes.

        Returns:
            The number of the latest version.
        """
        scope = (self._workspace_id, self._job_key)
        edits = [(change._replace(reason=_checked_reason(change.reason)), make) for change, make in edits]
        in_review = await self.is_in_review()
        async with self._backend.database.transaction(bulk=True) as tx:
            _check_review(await label_maps.lock(tx, *scope), in_review=in_review)
            latest = await label_maps.begin(tx, *scope)
            if not again and await _are_made(tx, latest, [change for change, _ in edits], version):
                return latest.version
            label_maps.check_version(latest, version)
            for change, make in edits:
                state, parent = await make(tx, latest)
                latest = await label_maps.add(tx, *scope, state, change, parent=parent)
            if edits and not in_review:
                await label_maps.apply(tx, *scope, await label_maps.state_of(tx, latest))
            return latest.version

    async def _has_ended(self, run: AutoRun) -> bool:
        if run.ended_at is not None:
            return True
        status = await true_status(self._backend, run.workspace_id, run.workflow_id, run.job_key, run.status)
        return status != "running"

    async def _version(self, number: int) -> LabelMapVersion:
        return next(one for one in reversed(await self.history()) if one.version == number)


class _Described:
    """The labels of one kind with what is known of them."""

    def __init__(
        self,
        kind: LabelKind,
        state: KindMap,
        evidence: Sequence[LabelEvidence],
        counts: dict[str, int],
        rounds: dict[str, int],
        merges: dict[str, RunMerge],
        history: dict[int, LabelMapVersion],
    ) -> None:
        self._kind, self._state, self._merges, self._history = kind, state, merges, history
        self._counts, self._rounds = counts, rounds
        self._evidence = {one.label: one for one in evidence}

    def labels(self) -> list[CanonicalLabel]:
        """The labels, those of most sessions first. Some of them no reply gave: they are of a rule or a fallback."""
        members = self._state.members
        sessions = dict.fromkeys(members, 0)
        for label, count in self._counts.items():
            canonical = self._state.canonical(label)
            sessions[canonical] = sessions.get(canonical, 0) + count
        ranked = sorted(sessions, key=lambda label: (-sessions[label], label))
        return [self._label(label, sessions[label], members.get(label, [])) for label in ranked]

    def _label(self, label: str, sessions: int, members: Sequence[str]) -> CanonicalLabel:
        whole = combined(label, [self._evidence[one] for one in members if one in self._evidence])
        merged = [self._merged(one) for one in members if one != label]
        return CanonicalLabel(
            kind=self._kind,
            label=label,
            sessions=sessions,
            definition=whole.definition,
            examples=whole.examples,
            merged=tuple(sorted(merged, key=lambda one: (-one.sessions, one.label))),
        )

    def _merged(self, label: str) -> MergedLabel:
        place = self._state.places[label]
        version, evidence = self._history[place.version], self._evidence.get(label, LabelEvidence(label=label))
        by_run = self._merges.get(label) if version.action is MapAction.MERGED else None
        return MergedLabel(
            label=label,
            sessions=self._counts.get(label, 0),
            definition=evidence.definition,
            examples=evidence.examples,
            first_round=self._rounds.get(label, 0),
            merged_by=_merged_by(version, by_run),
            made_by=version.made_by,
            reason=_reason(version, by_run),
            version=place.version,
            request_id=by_run.request_id if by_run else None,
            merged_at=version.created_at,
        )


def _rejection(pairs: Sequence[LabelPair], reason: str, made_by: str) -> tuple[Change, _Make]:
    """Labels are taken out of their canonical labels, in one version."""
    change = Change(MapAction.SPLIT, made_by, reason, None, [one.label for one in pairs])

    def without(state: LabelMap, _: int) -> LabelMap:
        for kind, into in dict.fromkeys((one.kind, one.into) for one in pairs):
            out = [one.label for one in pairs if (one.kind, one.into) == (kind, into)]
            state = state.with_kind(kind, state.kinds[kind].split(into, out))
        return state

    return change, _edited(without)


def _addition(pair: LabelPair, made_by: str) -> tuple[Change, _Make]:
    """A label is merged into another one."""
    change = Change(MapAction.MERGE, made_by, "", pair.kind, [pair.label], pair.into)
    edit = _of_kind(pair.kind, lambda labels, number: labels.merged(pair.label, pair.into, number))
    return change, _edited(edit)


def _of_kind(kind: LabelKind, edit: Callable[[KindMap, int], KindMap]) -> Callable[[LabelMap, int], LabelMap]:
    return lambda state, number: state.with_kind(kind, edit(state.kinds[kind], number))


def _edited(edit: Callable[[LabelMap, int], LabelMap]) -> _Make:
    async def make(tx: AsyncSession, latest: AutoLabelMap) -> tuple[LabelMap, int]:
        state = edit(await label_maps.state_of(tx, latest), latest.version + 1)
        return state, label_maps.parent_of(latest)

    return make


async def _are_made(tx: AsyncSession, latest: AutoLabelMap, changes: Sequence[Change], version: int | None) -> bool:
    """Whether the latest versions are these changes, of the version that the caller has seen."""
    before = latest.version - len(changes)
    if not changes or before < 0 or version not in (None, before):
        return False
    history = await label_maps.history(tx, latest.workspace_id, latest.job_key)
    made = [(one.action, one.made_by, one.kind, one.labels, one.into) for one in history[before + 1 :]]
    return made == [(one.action, one.made_by, one.kind, tuple(one.sources), one.target) for one in changes]


def _check_review(run: AutoRun, *, in_review: bool) -> None:
    """Refuse a change that was made for a review which has just ended.

    Raises:
        LabelsChanged: the run goes on with its labels.
    """
    if in_review and run.review_until is None:
        raise LabelsChanged("the review has just ended: look at the labels again when the run is finished")


def _unrecorded(run: AutoRun) -> LabelMapVersion:
    """The version that merging would have made, of a run from before versions were recorded."""
    return LabelMapVersion(
        version=1,
        parent=0,
        action=MapAction.MERGED,
        made_by=label_maps.RUN,
        reason="",
        kind=None,
        labels=(),
        into=None,
        created_at=run.ended_at or run.created_at,
    )


def _merged_by(version: LabelMapVersion, by_run: RunMerge | None) -> MergedBy:
    if version.action is not MapAction.MERGED:
        return MergedBy.PERSON
    return MergedBy.SPELLING if by_run is None or by_run.level < 0 else MergedBy.REPLY


def _reason(version: LabelMapVersion, by_run: RunMerge | None) -> str:
    """Why a label is merged, in words."""
    if version.action is not MapAction.MERGED:
        return version.reason
    if by_run is None or by_run.level < 0:
        return BY_SPELLING
    return f"a reply gives it the meaning of {by_run.into!r}"


def _checked_reason(reason: str) -> str:
    if len(reason) > MAX_REASON_CHARACTERS:
        raise InvalidInput(f"must have at most {MAX_REASON_CHARACTERS} characters", where="reason")
    return one_line(reason, MAX_REASON_CHARACTERS)
