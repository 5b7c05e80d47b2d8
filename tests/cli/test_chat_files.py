"""Files of chats on the command line: format and roles, what is left out, and a run with its report and export."""

from pathlib import Path

import pyarrow.parquet
import pytest

from parley import Client
from tests.cli.command import Run
from tests.parts import ROOT

EXPORTS = ROOT / "tests" / "client" / "exports"
WHATSAPP = EXPORTS / "WhatsApp Chat with Maria Silva.txt"


async def test_an_export_is_imported_with_roles_and_a_gap(parley: Run, client: Client) -> None:
    own = ("--workspace", client.workspace_id)
    ran = await parley("import", WHATSAPP, *own)
    assert (ran.code, "2 sessions imported, " in ran.err) == (0, True)
    named = ("--format", "whatsapp", "--role", "Fixit Service=agent", "--session-gap", "1000", *own)
    ran = await parley("import", WHATSAPP, *named)
    assert (ran.code, "1 session imported, " in ran.err) == (0, True)
    again = await parley("import", WHATSAPP, *named)
    assert (again.out, "1 session imported before" in again.err) == (ran.out, True)


async def test_a_session_in_which_nothing_was_said_is_listed(parley: Run, client: Client) -> None:
    ran = await parley("import", EXPORTS / "intercom.json", "--workspace", client.workspace_id)
    assert ran.code == 0
    assert ran.err.splitlines()[0] == "skipped intercom.json: line 59: session 215468800004 has no message"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--role", "Ann"), "--role: must be NAME=user, NAME=agent or NAME=bot, not 'Ann'"),
        (("--role", "Ann=boss"), "--role: must be NAME=user, NAME=agent or NAME=bot, not 'Ann=boss'"),
        (("--format", "xml"), "'--format'"),
        (("--session-gap", "0"), "session_gap_hours: must be above 0"),
        (("--format", "zendesk"), "is not JSON"),
    ],
)
async def test_a_mistake_is_refused(arguments: tuple[str, ...], error: str, parley: Run, client: Client) -> None:
    ran = await parley("import", WHATSAPP, *arguments, "--workspace", client.workspace_id)
    assert (ran.code, error in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err


@pytest.mark.usefixtures("worker")
async def test_an_export_is_labelled_reported_and_exported(parley: Run, client: Client, tmp_path: Path) -> None:
    page, table = tmp_path / "labels.html", tmp_path / "labels.parquet"
    own = ("--workspace", client.workspace_id)
    ran = await parley("auto-analyze", EXPORTS / "slack", "--html", page, *own)
    assert ran.code == 0, ran.err
    assert f"report written to {page}" in ran.err
    assert "help-1710148000.000200" in page.read_text(encoding="utf-8")
    job_id = next(line for line in ran.err.splitlines() if line.startswith("auto-analyze/"))
    ran = await parley("results", job_id, "--export", table, *own)
    assert (ran.code, f"3 sessions written to {table}" in ran.err) == (0, True)
    rows = pyarrow.parquet.read_table(table).to_pylist()
    assert [row["session_id"] for row in rows] == [
        "general-1710500000.000100",
        "help-1710148000.000200",
        "help-1710235000.000100",
    ]
    assert all(row["intent"] for row in rows)


async def test_a_report_needs_the_end_of_the_run(parley: Run) -> None:
    ran = await parley("auto-analyze", WHATSAPP, "--detach", "--html", "labels.html")
    assert (ran.code, "--html: the report is written when the job has ended" in ran.err) == (2, True)
