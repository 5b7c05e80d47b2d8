"""A provider's own list: CSV, JSONL, or the simulator's listing; errors name line and field."""

from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from parley.cli.billed import read_billed
from parley.domain.costs import BilledAttempt
from parley.domain.errors import InvalidInput

# The same in every process that collects the tests.
ONE, OTHER = UUID(int=1), UUID(int=2)


def read(tmp_path: Path, content: str, name: str = "list.csv") -> list[BilledAttempt]:
    path = tmp_path / name
    path.write_text(content)
    return read_billed(path)


def test_csv_with_costs(tmp_path: Path):
    (row,) = read(tmp_path, f"date,attempt_id,cost_usd\n2026-11-26,{ONE},0.00164\n")
    assert (row.attempt_id, row.cost_usd, row.input_tokens, row.source) == (ONE, Decimal("0.00164"), None, "line 2")


def test_csv_of_a_spreadsheet(tmp_path: Path):
    content = f'\ufeffattempt_id, input_tokens,output_tokens,note\r\n{ONE},1000,200,"two\r\nlines"\r\n{OTHER},1,2,\r\n'
    one, other = read(tmp_path, content)
    assert (one.input_tokens, one.output_tokens, other.output_tokens) == (1000, 200, 2)


def test_jsonl(tmp_path: Path):
    one, other = read(
        tmp_path, f'{{"attempt_id": "{ONE}", "cost_usd": 0.1}}\n\n{{"attempt_id": null, "cost_usd": 1}}', "l"
    )
    assert (one.attempt_id, one.cost_usd) == (ONE, Decimal("0.1"))
    assert (other.attempt_id, other.source) == (None, "line 3")


def test_the_simulators_listing(tmp_path: Path):
    listed = f"""[
        {{"number": 1, "provider": "openai", "attempt_id": "{ONE}", "received_at": 1.5, "billed": true,
          "input_tokens": 10, "output_tokens": 5, "audio_seconds": 0.0, "fault": null}},
        {{"number": 2, "provider": "openai", "attempt_id": "{OTHER}", "received_at": 1.6, "billed": false,
          "input_tokens": 0, "output_tokens": 0, "audio_seconds": 0.0, "fault": "rate_limit"}}]"""
    one, other = read(tmp_path, listed, "calls.json")
    assert (one.billed, one.input_tokens, other.billed) == (True, 10, False)


def test_the_rows_of_one_attempt_are_added_up(tmp_path: Path):
    content = f"attempt_id,cost_usd,input_tokens,output_tokens\n{ONE},0.1,10,\n{OTHER},1,1,1\n{ONE},0.2,,20\n"
    one, _ = read(tmp_path, content)
    assert (one.cost_usd, one.input_tokens, one.output_tokens) == (Decimal("0.3"), 10, 20)


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_an_unbilled_row_adds_nothing_to_a_billed_one(tmp_path: Path, order: tuple[bool, bool]):
    lines = [f'{{"attempt_id": "{ONE}", "billed": {str(billed).lower()}, "input_tokens": 7}}' for billed in order]
    (row,) = read(tmp_path, "\n".join(lines), "l.jsonl")
    assert (row.billed, row.input_tokens) == (True, 7)


def test_an_unbilled_row_needs_no_amount(tmp_path: Path):
    (row,) = read(tmp_path, f"attempt_id,billed\n{ONE},false\n")
    assert (row.attempt_id, row.billed) == (ONE, False)


def test_rows_with_foreign_ids_are_identified_by_their_place(tmp_path: Path):
    rows = read(tmp_path, "attempt_id,cost_usd\nabc,1\nabc,2\n")
    assert [(row.attempt_id, row.source) for row in rows] == [(None, "line 2"), (None, "line 3")]


@pytest.mark.parametrize(
    ("content", "name", "problem"),
    [
        ("id,cost_usd\n1,2\n", "l.csv", "l.csv: line 2: attempt_id: Field required"),
        (f"attempt_id,cost_usd\n{ONE},lots\n", "l.csv", "l.csv: line 2: cost_usd: "),
        (f"attempt_id,cost_usd\n{ONE},NaN\n", "l.csv", "l.csv: line 2: cost_usd: "),
        (f"attempt_id,cost_usd\n{ONE},-1\n", "l.csv", "l.csv: line 2: cost_usd: "),
        (f"attempt_id,input_tokens\n{ONE},\n", "l.csv", "l.csv: line 2: must have cost_usd, or"),
        (f'attempt_id,cost_usd\n{ONE},"1\n', "l.csv", "l.csv: line 2: is not CSV: "),
        ('{"attempt_id": 1', "l.jsonl", "l.jsonl: line 1: is not JSON: "),
        ("[1]", "l.json", "l.json: entry 1: must be a JSON object"),
    ],
)
def test_a_bad_list_is_refused_by_line_and_field(tmp_path: Path, content: str, name: str, problem: str):
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, content, name)
    assert str(refused.value).startswith(problem)


def test_a_missing_list_is_named(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"gone\.csv: cannot be read"):
        read_billed(tmp_path / "gone.csv")
