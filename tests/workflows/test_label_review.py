"""A run with a review: its merges wait for a person, who may change them, or for the end of the time."""

import asyncio
from functools import partial
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from parley import AutoAnalyzeHandle, Client, InvalidInput, LabelPair, LabelsChanged, NotFound, Unreachable
from parley.domain.auto_analyze.contract import DEFAULT_REVIEW_LIMIT_SECONDS, LabelKind, Phase
from parley.domain.auto_analyze.label_maps import LabelMapView, MapAction
from tests.workflows.test_auto_analyze import chats, path, results_of, sessions_of, start
from tests.workflows.test_auto_analyze_control import held
from tests.workflows.test_auto_analyze_limits import statistics_of

__all__ = ["path"]


async def waiting(client: Client, path: Path, **terms: object) -> tuple[AutoAnalyzeHandle, LabelMapView]:
    """A run that waits for a review of at least one merge."""
    job = await start(client, path, chats(90), review=True, **terms)  # type: ignore[arg-type]
    progress = await held(job, "review")
    assert progress.phase is Phase.REVIEW
    assert "for a review until" in progress.note
    return job, await job.labels.show()


def pairs_of(view: LabelMapView) -> list[LabelPair]:
    return [
        LabelPair(kind=one.kind, label=merged.label, into=one.label) for one in view.labels for merged in one.merged
    ]


@pytest.mark.usefixtures("worker")
class TestReview:
    async def test_what_a_person_rejects_and_adds_is_what_sessions_get(self, client: Client, path: Path) -> None:
        job, view = await waiting(client, path, reassign=False)
        assert view.review_until is not None
        assert (await job.report()).review_until == view.review_until
        assert all(one.intent == one.original_intent for one in await sessions_of(client, job))
        rejected, *kept = [pair for pair in pairs_of(view) if pair.kind is LabelKind.INTENT]
        with pytest.raises(LabelsChanged, match="not 99"):
            await job.approve(version=99)
        renamed = await job.labels.rename(rejected.into, "By <b>hand</b>, of the team")
        with pytest.raises(LabelsChanged):
            await job.approve(version=view.version)
        assert all(one.intent == one.original_intent for one in await sessions_of(client, job))
        pair = LabelPair(label=rejected.label, into=str(renamed.into))
        controls = await job.approve(rejected=[pair], version=renamed.version, made_by="ann")
        assert controls.held == ""
        report = await job.result()
        assert (report.status, statistics_of(report).reviewed, report.review_until) == ("completed", True, None)
        given = {one.original_intent: one.intent for one in await sessions_of(client, job)}
        assert given.get(rejected.label, rejected.label) == rejected.label
        assert given[rejected.into] == "By <b>hand</b>, of the team"
        assert {given.get(pair.label, pair.into) for pair in kept if pair.into != rejected.into} <= {
            pair.into for pair in kept
        }
        actions = [one.action for one in await job.labels.history()]
        assert actions[:5] == [MapAction.FOUND, MapAction.MERGED, MapAction.RENAME, MapAction.SPLIT, MapAction.APPROVED]
        assert (await job.labels.history())[4].made_by == "ann"
        with pytest.raises((InvalidInput, NotFound)):
            await job.approve()
        # An approval changes no label: undo takes back the split.
        while (await job.labels.undo()).parent != 2:
            pass
        given = {one.original_intent: one.intent for one in await sessions_of(client, job)}
        assert given[rejected.into] == "By <b>hand</b>, of the team"
        assert await client.audit() == []

    async def test_a_review_is_stored_as_a_whole_and_once(
        self, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job, view = await waiting(client, path, reassign=False)
        before = await job.labels.history()
        rejected, *_ = [pair for pair in pairs_of(view) if pair.kind is LabelKind.INTENT]
        first, second, *_ = [one.label for one in view.labels if one.kind is LabelKind.INTENT]
        added = LabelPair(label=second, into=first)
        with pytest.raises(NotFound, match="unheard"):
            await job.approve(rejected=[rejected], added=[added, LabelPair(label="unheard", into=first)])
        assert await job.labels.history() == before
        assert await job.labels.show() == view

        review = partial(job.approve, rejected=[rejected], added=[added], version=view.version, made_by="ann")
        with monkeypatch.context() as patched:
            patched.setattr(AutoAnalyzeHandle, "_control", AsyncMock(side_effect=Unreachable("it does not answer")))
            with pytest.raises(Unreachable):
                await review()
        changed = await job.labels.history()
        with pytest.raises(LabelsChanged):
            await job.approve(rejected=[rejected], version=view.version, made_by="ann")
        assert (await review()).held == ""
        await job.result()
        assert [one.action for one in changed[len(before) :]] == [MapAction.SPLIT, MapAction.MERGE]
        assert [one.action for one in (await job.labels.history())[len(changed) :]] == [MapAction.APPROVED]
        given = {one.original_intent: one.intent for one in await sessions_of(client, job)}
        assert given[second] == first
        assert given.get(rejected.label, rejected.label) == rejected.label

    async def test_of_two_who_approve_one_does(self, client: Client, path: Path) -> None:
        job, view = await waiting(client, path, reassign=False)
        both = await asyncio.gather(
            *(job.approve(version=view.version, made_by=name) for name in ("ann", "bob")), return_exceptions=True
        )
        refused = [one for one in both if isinstance(one, Exception)]
        assert len(refused) == 1
        assert isinstance(refused[0], (LabelsChanged, InvalidInput, NotFound))
        await job.result()
        assert [one.action for one in await job.labels.history()].count(MapAction.APPROVED) == 1

    async def test_a_run_that_is_to_finish_does_not_wait(self, client: Client, path: Path) -> None:
        job, view = await waiting(client, path)
        await job.finish()
        statistics = statistics_of(await job.result())
        assert (statistics.reviewed, statistics.warnings[-1]) == (False, "the merges are applied without a review")
        given = {one.original_intent: one.intent for one in await sessions_of(client, job)}
        assert all(given[pair.label] == pair.into for pair in pairs_of(view) if pair.kind is LabelKind.INTENT)

    async def test_a_run_that_does_not_wait_refuses_an_approval(self, client: Client, path: Path) -> None:
        job, view = await waiting(client, path, reassign=False)
        await job.cancel()
        with pytest.raises(Exception, match="cancel"):
            await job.result()
        with pytest.raises((InvalidInput, NotFound)):
            await job.approve(version=view.version)
        # Its labels are those of a run that has ended.
        pair = pairs_of(view)[0]
        await job.labels.reject([pair])
        assert await job.labels.show() != view


async def test_without_a_person_the_merges_are_made_when_the_time_is_over(skipping_client: Client, path: Path) -> None:
    client = skipping_client
    before = await start(client, path, chats(90), run_name="without")
    await before.result()
    job = await start(client, path, chats(90), run_name="with", review=True)
    report = await job.result()
    statistics = statistics_of(report)
    assert (statistics.reviewed, statistics_of(await before.report()).reviewed) == (False, None)
    assert "the merges are applied without a review" in statistics.warnings
    assert await results_of(client, job) == await results_of(client, before)
    assert MapAction.APPROVED not in [one.action for one in await job.labels.history()]
    described = await client.temporal.get_workflow_handle(job.id).describe()
    assert described.close_time is not None
    waited = (described.close_time - described.start_time).total_seconds()
    assert waited >= DEFAULT_REVIEW_LIMIT_SECONDS
