"""`parley labels`: what a person sees and changes, with names that a terminal or a shell could mistake."""

import json

import pytest

from parley import Backend
from tests.cli.command import Run
from tests.client.test_label_maps import HOSTILE, fill

NAMES = f"[red]{HOSTILE}[/red]"


@pytest.fixture
async def run(backend: Backend) -> None:
    await fill(backend.client("acme"), backend)


@pytest.mark.usefixtures("run")
async def test_labels_are_shown_changed_and_taken_back(parley: Run):
    shown = await parley("labels", "show", "run", "--kind", "intent", "-w", "acme")
    assert (shown.code, shown.err.strip()) == (0, "version 2")
    assert "bill (2), by reply: a reply gives it the meaning of 'billing'" in shown.out
    assert "invoices (1), by spelling" in shown.out
    renamed = await parley("labels", "rename", "run", "refund", NAMES, "--reason", "as we say", "-w", "acme")
    assert renamed.out.strip() == f"version 3 of the labels: renamed 'refund' to {NAMES!r}"
    assert (await parley("labels", "merge", "run", "parcel", NAMES, "-w", "acme")).code == 0
    split = await parley(
        "labels", "split", "run", "billing", "--out", "bill", "--out", "invoices", "-w", "acme", "--json"
    )
    assert json.loads(split.out)["labels"] == ["bill", "invoices"]
    listed = json.loads((await parley("labels", "show", "run", "-w", "acme", "--json")).out)
    assert {one["label"]: one["sessions"] for one in listed["labels"]} == {
        NAMES: 4,
        "bill": 2,
        "billing": 1,
        "invoices": 1,
        "unclassified": 1,
    }
    assert NAMES in (await parley("labels", "show", "run", "-w", "acme")).out.replace("\n", "")
    undone = await parley("labels", "undo", "run", "-w", "acme")
    assert undone.out.strip() == "version 6 of the labels: returned to version 4"
    history = await parley("labels", "history", "run", "-w", "acme")
    assert "as we say" in history.out
    assert "took 'bill', 'invoices' out of 'billing'" in history.out


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("merge", "run", "bill", "refund"), "the run has no label 'bill'; did you mean 'billing'?"),
        (("merge", "run", "parcel", "refund", "--version", "1"), "the labels have version 2, not 1"),
        (("split", "run", "billing"), "Missing option '--out'"),
        (("review", "run", "--reject", "parcel"), "--reject: 'parcel' is not merged into another label"),
        (("review", "run", "--approve"), "does not wait for a review of its labels"),
        (("review", "run", "--reject", "bill"), "does not wait for a review of its labels"),
        (("show", "nothing"), "has no job 'nothing'"),
        (("undo", "run", "--version", "x"), "--version"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line(parley: Run, arguments: tuple[str, ...], words: str):
    ran = await parley("labels", *arguments, "-w", "acme")
    assert (ran.code, words in ran.err, ran.out) == (2, True, ""), ran.err
    assert len(ran.err.splitlines()) == 1
