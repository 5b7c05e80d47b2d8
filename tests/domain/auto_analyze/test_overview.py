"""Figures of a run at a glance."""

from parley.domain.auto_analyze.contract import LabelCount, LabelKind
from tests.report.runs import overview_of, sessions_of


def test_figures_of_intents():
    counts = {"billing": 60, "Billing!": 1, "log-in": 20, "log in": 18, "rare": 1}
    labels = [LabelCount(kind=LabelKind.INTENT, label=name, sessions=count) for name, count in counts.items()]
    other = LabelCount(kind=LabelKind.TRANSFER_REASON, label="x", sessions=100)
    run = overview_of(sessions_of(100), labels=(*labels, other))
    assert run.spelled_alike == 2
    assert [line.label for line in run.catch_alls] == ["billing"]
