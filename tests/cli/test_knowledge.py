"""`parley knowledge`: documents are added, listed, searched and removed."""

import io
import json
from pathlib import Path

import pytest

from parley.client import knowledge
from tests.cli.command import Run

POOL = "# The pool\n\n## Hours\n\nThe pool opens at six and closes at ten.\n\n## Prices\n\nA ticket costs 7 dollars."


@pytest.fixture
def documents(reachable: Path) -> Path:
    """A directory with documents, and a file that is none."""
    (reachable / "sub").mkdir()
    (reachable / "pool.md").write_text(POOL)
    (reachable / "sub" / "refunds.html").write_text("<title>Refunds</title><p>Unused tickets are refunded.</p>")
    (reachable / "photo.png").write_bytes(b"\x89PNG\x00")
    return reachable


async def test_a_directory_is_added_listed_searched_and_removed(parley: Run, documents: Path):
    added = await parley("knowledge", "add", documents)
    assert (added.code, added.out) == (0, "added: pool.md (2 passages)\nadded: sub/refunds.html (1 passage)\n")
    again = await parley("knowledge", "add", documents, "--json")
    assert [one["outcome"] for one in json.loads(again.out)] == ["unchanged", "unchanged"]
    listed = await parley("knowledge", "list")
    assert all(text in listed.out for text in ("pool.md", "The pool", "markdown", "sub/refunds.html", "Refunds"))
    found = await parley("knowledge", "search", "What does a ticket cost?")
    assert found.out.startswith("1. The pool › Prices  [pool.md, passage 2]\nA ticket costs 7 dollars.\n")
    [first, *_] = json.loads((await parley("knowledge", "search", "ticket", "--json", "--limit", "1")).out)
    assert {"document_id", "name", "title", "chunk", "heading", "text", "score"} == set(first)
    assert (await parley("knowledge", "remove", "pool.md", "sub/refunds.html")).out == "removed: 2\n"
    assert (await parley("knowledge", "search", "What does a ticket cost?")).out == "nothing is found\n"
    assert (await parley("knowledge", "list")).out == "there are no documents\n"


async def test_a_bad_file_is_named_and_the_others_are_added(parley: Run, documents: Path):
    (documents / "blank.md").write_text(" ")
    done = await parley("knowledge", "add", documents / "photo.png", documents)
    assert done.code == 2
    assert "added: pool.md" in done.out
    assert "photo.png: is not text, Markdown, HTML or PDF" in done.err
    assert "blank.md: has no text" in done.err


async def test_a_document_is_read_from_stdin_under_a_name(parley: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(POOL.encode())))
    added = await parley("knowledge", "add", "-", "--name", "pool")
    assert added.out == "added: pool (2 passages)\n"
    assert json.loads((await parley("knowledge", "list", "--json")).out)[0]["title"] == "The pool"


async def test_a_name_for_several_documents_is_refused(parley: Run, documents: Path):
    refused = await parley("knowledge", "add", documents, "--name", "one")
    assert refused.code == 2
    assert "--name: names one document, and there are 2" in refused.err


@pytest.mark.parametrize("command", [("add", "none.md"), ("remove", "none.md"), ("search", " ")])
async def test_a_callers_fault_is_one_line(command: tuple[str, str], parley: Run):
    done = await parley("knowledge", *command)
    assert (done.code, len(done.err.splitlines())) == (2, 1)


async def test_without_vectors_it_says_what_to_install(parley: Run, documents: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(knowledge, "is_installed", lambda: False)
    done = await parley("knowledge", "add", documents / "pool.md")
    assert (done.code, done.out) == (0, "added: pool.md (2 passages)\n")
    assert "install 'parley[local-embeddings]'" in done.err
    assert "Prices" in (await parley("knowledge", "search", "ticket price")).out
