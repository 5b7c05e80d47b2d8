"""The state of a labelling run survives continue-as-new."""

from datetime import UTC, datetime
from decimal import Decimal

from parley.domain.auto_analyze.contract import AutoAnalyzeInput, LabelKind, Phase, Plan, ReassignmentPlan, RunSnapshot
from workflows.auto_analyze.run_state import Conflicts, RunState

NOW = datetime(2026, 3, 2, tzinfo=UTC)
GIVEN = AutoAnalyzeInput(workspace_id="acme", user_id="ann", dataset_id="d", streams=5, debug=True)


def state() -> RunState:
    return RunState(started_at=NOW, phase_started_at=NOW)


def test_every_field_of_a_snapshot_is_restored() -> None:
    before = state()
    before.plan = Plan(candidates=(), discovery=4, sessions=40)
    before.phase, before.degraded, before.last_warnings = Phase.PARALLEL, True, ("a warning",)
    before.cost_usd, before.seconds_left = Decimal("0.5"), 3.5
    before.reassignment, before.canonical_labels = ReassignmentPlan(batches=3), {LabelKind.INTENT: 7}
    before.kinds_resolved = (LabelKind.INTENT,)
    numbers = {name for name, kind in RunSnapshot.__annotations__.items() if kind in (int, float)}
    for value, name in enumerate(sorted(numbers), start=1):
        setattr(before, name, value)
    after = state()
    after.restore(GIVEN, RunSnapshot.model_validate_json(before.snapshot().model_dump_json()))
    assert after.snapshot() == before.snapshot()
    assert after.statistics() == before.statistics()
    assert after.progress() == before.progress()
    assert after.debug


def test_conflicts_of_a_kind_that_is_compared_again_are_counted_once() -> None:
    """The budget did not suffice to compare all kinds at the same time."""
    run = state()
    for kind in (LabelKind.INTENT, LabelKind.TRANSFER_REASON):
        run.start_kind(kind)
        run.add_conflicts(kind, Conflicts(found=3, unmerged_chunks=1))
    run.complete_kind(LabelKind.TRANSFER_REASON)
    assert (run.statistics().conflicts_found, run.statistics().unmerged_chunks) == (6, 2)
    run.start_kind(LabelKind.INTENT)
    run.add_conflicts(LabelKind.INTENT, Conflicts(found=3, kept_apart=2))
    run.complete_kind(LabelKind.INTENT)
    found = run.statistics()
    assert (found.conflicts_found, found.kept_apart, found.unmerged_chunks) == (6, 2, 1)


def test_conflicts_of_a_kind_that_is_not_compared_to_its_end_stay_behind() -> None:
    run, after = state(), state()
    run.start_kind(LabelKind.INTENT)
    run.add_conflicts(LabelKind.INTENT, Conflicts(found=3))
    after.restore(GIVEN, RunSnapshot.model_validate_json(run.snapshot().model_dump_json()))
    assert (run.statistics().conflicts_found, after.statistics().conflicts_found) == (3, 0)
