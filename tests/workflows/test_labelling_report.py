"""The report of a labelling run through the client and the command line."""

from pathlib import Path

import pytest

from parley import Client, InvalidInput, RunOverview
from parley.cli.reporting import write_report
from parley.domain.auto_analyze.contract import LabelKind
from tests.workflows.test_auto_analyze import chats, start


@pytest.mark.usefixtures("worker")
async def test_a_run_has_a_report(client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = await start(client, tmp_path / "chats.jsonl", chats(40), streams=3)
    report = await job.result()
    run: RunOverview = await job.overview()
    assert (run.status, run.sessions, run.labelled, run.name) == ("completed", 40, 40, "chats.jsonl")
    assert run.labels == report.labels
    assert sum(one.sessions for one in run.flows) == 40
    assert sum(one.labels for one in run.new_labels) >= len(run.of_kind(LabelKind.INTENT))
    assert {"discovery", "parallel streams"} <= {one.phase for one in run.phases}
    assert sum(one.confirmed_usd + one.uncertain_usd for one in run.phases) == sum(
        line.confirmed_usd + line.uncertain_usd for line in report.costs.lines
    )
    sessions = [one async for one in job.quoted_sessions()]
    assert [one.session_id for one in sessions] == [f"s-{number:04}" for number in range(40)]
    assert all(one.quote.startswith("Hi, ") for one in sessions)
    page = tmp_path / "labels.html"
    await write_report(job, report, page)
    assert "s-0039" in page.read_text(encoding="utf-8")
    assert capsys.readouterr().err == f"report written to {page}\n"
    with pytest.raises(InvalidInput, match="cannot be written"):
        await write_report(job, report, tmp_path / "missing" / "labels.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chats.jsonl", "labels.html"]
