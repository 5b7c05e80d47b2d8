"""Read a provider's own list of billed attempts: CSV, JSONL, or the JSON of the simulator's `/admin/requests`."""

import csv
from collections.abc import Iterator
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from parley.client.reading import first_problem, read_json, read_text
from parley.domain.costs import BilledAttempt
from parley.domain.errors import InvalidInput
from parley.domain.joint import AMOUNTS, COUNTS

MAX_BYTES = 500_000_000
Row = tuple[str, dict[str, Any]]


def _blank_is_none(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


Amount = Annotated[Annotated[Decimal, Field(ge=0)] | None, BeforeValidator(_blank_is_none)]
Count = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_blank_is_none)]


class BilledRow(BaseModel):
    """One row of a list; other columns are ignored. Input tokens include cached ones."""

    attempt_id: str | None
    billed: bool = True
    cost_usd: Amount = None
    input_tokens: Count = None
    cached_input_tokens: Count = None
    cache_write_tokens: Count = None
    output_tokens: Count = None
    audio_seconds: Amount = None

    @model_validator(mode="after")
    def _has_an_amount(self) -> "BilledRow":
        if self.billed and self.cost_usd is None and self.input_tokens is None and self.output_tokens is None:
            raise ValueError("must have cost_usd, or input_tokens and output_tokens")
        return self


def read_billed(path: Path) -> list[BilledAttempt]:
    """A provider's list, with the rows of one attempt added up: some vendors list each kind of token in a row.

    Raises:
        InvalidInput: a row is not valid; the error names the file, the line and the field.
    """
    found: dict[object, BilledAttempt] = {}
    for place, row in _rows(path):
        try:
            attempt = _attempt(place, BilledRow.model_validate(row))
        except ValidationError as error:
            problem = first_problem(error)
            raise InvalidInput(problem.problem, where=f"{path.name}: {place}", field=problem.field) from None
        key = attempt.attempt_id or place
        found[key] = _sum(found[key], attempt) if key in found else attempt
    return list(found.values())


def _attempt(place: str, row: BilledRow) -> BilledAttempt:
    return BilledAttempt(source=place, **{**row.model_dump(), "attempt_id": _uuid(row.attempt_id)})


def _uuid(text: str | None) -> UUID | None:
    """Parley's attempt ids are UUIDs; any other id belongs to another program."""
    try:
        return UUID((text or "").strip())
    except ValueError:
        return None


def _sum(one: BilledAttempt, other: BilledAttempt) -> BilledAttempt:
    """Both rows together. A row that was not billed adds nothing."""
    if not (one.billed and other.billed):
        return one if one.billed else other
    amounts_of = {name: [value for value in (getattr(one, name), getattr(other, name)) if value is not None]
            for name in (*AMOUNTS, *COUNTS)}  # fmt: skip
    return one.model_copy(update={name: sum(values) if values else None for name, values in amounts_of.items()})


def _rows(path: Path) -> Iterator[Row]:
    """The rows with their places. The name and the first character decide the format."""
    text = read_text(path, MAX_BYTES)
    if path.suffix.lower() == ".csv":
        yield from _of_csv(text, path)
    elif text.lstrip().startswith("["):
        for number, row in enumerate(read_json(text, where=path.name), 1):
            yield _object(f"entry {number}", row, path)
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _object(f"line {number}", read_json(line, where=f"{path.name}: line {number}"), path)


def _of_csv(text: str, path: Path) -> Iterator[Row]:
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield f"line {reader.line_num}", {str(name).strip(): value for name, value in row.items()}
    except csv.Error as error:
        raise InvalidInput(f"is not CSV: {error}", where=f"{path.name}: line {reader.reader.line_num}") from None


def _object(place: str, row: Any, path: Path) -> Row:
    if not isinstance(row, dict):
        raise InvalidInput("must be a JSON object", where=f"{path.name}: {place}")
    return place, row
