"""Exports: every session with its labels, in a file that appears when it is complete."""

import csv
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from parley.cli import exporting
from parley.cli.exporting import write_sessions
from parley.domain.auto_analyze.contract import ExportedSession
from parley.domain.chat import Containment
from parley.domain.errors import InvalidInput, NotFound

FIELDS = list(ExportedSession.model_fields)


def labelled(name: str = "s-1", **changes: Any) -> ExportedSession:
    values: dict[str, Any] = {
        "session_id": name,
        "user_id": "u",
        "containment": Containment.AGENT,
        "intent": "billing dispute",
        "transfer_reason": "refund approval",
        "drop_off_location": None,
        "summary": "The invoice was wrong.",
        "original_intent": "invoice problem",
        "original_transfer_reason": "refund approval",
        "original_drop_off_location": None,
        "fallback": False,
        "by_rule": False,
        "phase": "parallel streams",
        "round": 3,
        "stream": 0,
    }
    return ExportedSession(**{**values, **changes})


def unlabelled(name: str) -> ExportedSession:
    nothing = dict.fromkeys(set(FIELDS) - {"session_id", "user_id", "containment", "fallback", "by_rule"})
    return labelled(name, **nothing)


async def each(*sessions: ExportedSession, error: Exception | None = None) -> AsyncIterator[ExportedSession]:
    for session in sessions:
        yield session
    if error:
        raise error


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


async def test_jsonl_round_trips(tmp_path: Path):
    path, sessions = tmp_path / "out.jsonl", [labelled("a"), unlabelled("b"), labelled("c", fallback=True)]
    assert await write_sessions(each(*sessions), path) == 3
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [ExportedSession.model_validate_json(line) for line in lines] == sessions
    assert list(json.loads(lines[0])) == FIELDS


async def test_csv_has_a_column_for_every_field_and_a_row_for_every_session(tmp_path: Path):
    path = tmp_path / "out.CSV"
    assert await write_sessions(each(labelled("a"), unlabelled("b")), path) == 2
    first, second = table(path)
    assert list(first) == FIELDS
    assert (first["containment"], first["round"], first["stream"], first["fallback"]) == ("agent", "3", "0", "False")
    assert {name for name, value in second.items() if value} == {
        *("session_id", "user_id", "containment", "fallback", "by_rule")
    }


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
async def test_the_original_label_is_beside_the_canonical_one(name: str, tmp_path: Path):
    await write_sessions(each(labelled()), tmp_path / name)
    path = tmp_path / name
    [row] = table(path) if name.endswith("csv") else [json.loads(path.read_text())]
    assert (row["intent"], row["original_intent"]) == ("billing dispute", "invoice problem")


def test_a_negative_amount_of_a_report_is_a_number():
    values = {"usd": "-0.0500", "small": "-1E-7", "label": "-5+1", "name": "--1"}
    assert dict(exporting.flat(values)) == {"usd": "-0.0500", "small": "-1E-7", "label": "'-5+1", "name": "'--1"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
async def test_no_cell_is_a_formula(start: str, tmp_path: Path):
    hostile = f'{start}HYPERLINK("http://x.example","click")'
    texts = ["session_id", "user_id", "intent", "original_intent", "transfer_reason", "summary", "phase"]
    await write_sessions(each(labelled().model_copy(update=dict.fromkeys(texts, hostile))), tmp_path / "out.csv")
    [row] = table(tmp_path / "out.csv")
    assert [row[name] for name in texts] == [f"'{hostile}"] * len(texts)
    assert not any(value.startswith(start) for value in row.values())


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
async def test_special_characters_stay_in_their_cell(name: str, tmp_path: Path):
    words = 'said "no",\r\nthen;\tleft\u2028 我 🙂'
    path = tmp_path / name
    await write_sessions(each(labelled(summary=words), labelled("b")), path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = table(path) if name.endswith("csv") else [json.loads(line) for line in file]
    assert [row["summary"] for row in rows] == [words, "The invoice was wrong."]


async def test_jsonl_is_not_changed_for_spreadsheets(tmp_path: Path):
    await write_sessions(each(labelled(user_id="+49 30 1234")), tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["user_id"] == "+49 30 1234"


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
async def test_no_sessions_make_an_empty_file(name: str, tmp_path: Path):
    assert await write_sessions(each(), tmp_path / name) == 0
    assert (tmp_path / name).read_text() == ("" if name.endswith("jsonl") else ",".join(FIELDS) + "\n")


@pytest.mark.parametrize("name", ["out.json", "out.xlsx", "out", "csv", "out.csv.gz"])
async def test_another_ending_is_refused(name: str, tmp_path: Path):
    with pytest.raises(InvalidInput, match=f"^{name}: must end in .jsonl, .csv or .parquet$"):
        await write_sessions(each(labelled()), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["missing/out.csv", "file/out.csv", "folder.csv"])
async def test_an_unwritable_path_is_named(place: str, tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidInput) as refused:
        await write_sessions(each(labelled()), tmp_path / place)
    assert str(refused.value).startswith(f"{tmp_path / place}: cannot be written: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.csv"]


async def test_an_export_that_fails_does_not_change_the_earlier_file(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    await write_sessions(each(labelled("a")), path)
    before = path.read_bytes()
    with pytest.raises(NotFound):
        await write_sessions(each(labelled("b"), error=NotFound("no such job")), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


async def test_an_export_replaces_the_earlier_file(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    for count in (3, 1):
        await write_sessions(each(*[labelled()] * count), path)
    assert len(path.read_text().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


def parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    return pyarrow.parquet.ParquetFile(path)


async def test_parquet_round_trips_with_types_and_nulls(tmp_path: Path):
    path = tmp_path / "out.parquet"
    words = 'said "no",\r\nthen;\tleft\u2028 我 🙂'
    sessions = [labelled("a", summary=words), unlabelled("b"), labelled("=c", fallback=True)]
    assert await write_sessions(each(*sessions), path) == 3
    found = parquet(path).read()
    assert [ExportedSession(**row) for row in found.to_pylist()] == sessions
    assert found.schema.names == FIELDS
    kinds = {name: str(found.schema.field(name).type) for name in FIELDS}
    assert (kinds["containment"], kinds["fallback"], kinds["round"], kinds["summary"]) == (
        *("string", "bool", "int32", "string"),
    )


async def test_parquet_is_written_in_groups_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exporting, "ROWS_IN_GROUP", 100)
    path = tmp_path / "out.PARQUET"
    assert await write_sessions(each(*(labelled(str(at)) for at in range(250))), path) == 250
    file = parquet(path)
    assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [100, 100, 50]
    assert file.read(["session_id"])["session_id"].to_pylist() == [str(at) for at in range(250)]


async def test_no_sessions_make_a_parquet_file_with_columns(tmp_path: Path):
    assert await write_sessions(each(), tmp_path / "out.parquet") == 0
    assert (parquet(tmp_path / "out.parquet").schema_arrow.names, list(tmp_path.iterdir())) == (
        FIELDS,
        [tmp_path / "out.parquet"],
    )


async def test_a_parquet_export_that_fails_leaves_nothing(tmp_path: Path):
    with pytest.raises(NotFound):
        await write_sessions(each(labelled("b"), error=NotFound("no such job")), tmp_path / "out.parquet")
    assert list(tmp_path.iterdir()) == []


async def test_parquet_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInput, match=r"^pyarrow: is not installed: pip install 'parley\[parquet\]'$"):
        await write_sessions(each(labelled()), tmp_path / "out.parquet")
    assert list(tmp_path.iterdir()) == []
