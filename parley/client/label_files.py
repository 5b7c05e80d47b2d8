"""Read a file of labels that a run starts from: JSON, CSV, or one label a line.

A wrong label is an error that names the file, the line or the place, and what to do.
"""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from parley.client.reading import first_problem, read_json, read_text, shown
from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.taxonomy import GivenLabel, Taxonomy
from parley.domain.errors import InvalidInput

MOST_BYTES = 10_000_000
KINDS = {kind.value: kind for kind in LabelKind}
COLUMNS = ("label", "kind", "definition", "examples")
DELIMITERS = ",;\t"
BETWEEN_EXAMPLES = "|"
COMMENT = "#"


class _Found(NamedTuple):
    """A label as the file has it. `place`: its line, or its place in JSON."""

    place: str
    data: Any


def read_labels(path: Path, *, closed: bool | None = None) -> Taxonomy:
    """The labels of a file. Its name decides: `.json`, `.csv`, `.tsv`; any other has one label a line.

    Args:
        path: the file.
        closed: take these labels and "other" only. Default: what a JSON file says, else false.

    Raises:
        InvalidInput: the file cannot be read, or a label is not valid; the error names its place and the problem.
    """
    text = read_text(path, MOST_BYTES)
    suffix = path.suffix.lower()
    says_closed = False
    if suffix == ".json":
        data = read_json(text, where=path.name)
        if isinstance(data, dict):
            says_closed = _closed(cast("dict[str, Any]", data), path.name)
        found = _of_json(data, path.name)
    else:
        found = _of_table(text, path.name) if suffix in (".csv", ".tsv") else _of_lines(text, path.name)
    labels = _checked(found, path.name)
    if not labels:
        raise InvalidInput("has no label", where=path.name)
    try:
        return Taxonomy(labels=tuple(labels), closed=says_closed if closed is None else closed)
    except ValidationError as error:
        raise first_problem(error, where=path.name) from None


def _checked(found: Iterable[_Found], file: str) -> list[GivenLabel]:
    labels: list[GivenLabel] = []
    seen: dict[tuple[LabelKind, str], tuple[str, str]] = {}
    for place, data in found:
        try:
            one = GivenLabel.model_validate(data)
        except ValidationError as error:
            raise first_problem(error, where=f"{file}: {place}") from None
        written = str(data["label"])
        first, as_written = seen.setdefault((one.kind, one.label), (place, written))
        if first != place:
            same = "the same label" if as_written == written else "only case, blanks or signs differ"
            raise InvalidInput(
                f"{shown(written)} is on {first} already, as {shown(as_written)} ({same}): remove one",
                where=f"{file}: {place}",
            )
        labels.append(one)
    return labels


def _of_lines(text: str, file: str) -> Iterator[_Found]:
    """One label a line; a line `[transfer_reason]` begins the labels of that kind."""
    kind = LabelKind.INTENT
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content or content.startswith(COMMENT):
            continue
        place = f"line {number}"
        if content.startswith("[") and content.endswith("]"):
            kind = _kind(content[1:-1].strip(), f"{file}: {place}")
        else:
            yield _Found(place, {"label": content, "kind": kind})


def _of_table(text: str, file: str) -> Iterator[_Found]:
    """The rows of a table with a line of column names."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=head.count)
    rows = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    names = [name.strip() for name in rows.fieldnames or ()]
    rows.fieldnames = names
    unknown = [name for name in names if name not in COLUMNS]
    if "label" not in names or unknown:
        problem = f"has the column {shown(unknown[0])}" if unknown else "has no column 'label'"
        raise InvalidInput(f"{problem}: the columns are {', '.join(COLUMNS)}", where=f"{file}: line 1")
    try:
        for row in rows:
            place = f"line {rows.line_num}"
            if None in row:
                raise InvalidInput("has more cells than there are columns", where=f"{file}: {place}")
            yield _Found(place, _of_row({name: (cell or "").strip() for name, cell in row.items()}, file, place))
    except csv.Error as error:
        raise InvalidInput(f"is not a CSV row: {error}", where=f"{file}: line {rows.reader.line_num}") from None


def _of_row(row: dict[str, str], file: str, place: str) -> dict[str, Any]:
    examples = tuple(filter(None, map(str.strip, row.get("examples", "").split(BETWEEN_EXAMPLES))))
    kind = _kind(row.get("kind") or LabelKind.INTENT.value, f"{file}: {place}")
    return {"label": row["label"], "kind": kind, "definition": row.get("definition", ""), "examples": examples}


def _of_json(data: Any, file: str) -> Iterator[_Found]:
    """A list of labels, or an object with a list for each kind. A label is its name, or an object with it."""
    if isinstance(data, list):
        yield from _of_list(data, LabelKind.INTENT, "", file)
    elif isinstance(data, dict):
        for name, labels in cast("dict[str, Any]", data).items():
            if name == "closed":
                continue
            if not isinstance(labels, list):
                raise InvalidInput("must be a list of labels", where=f"{file}: {shown(name)}")
            yield from _of_list(labels, _kind(name, file), name, file)
    else:
        raise InvalidInput(f"must be a list of labels, or an object with {', '.join(KINDS)}", where=file)


def _of_list(labels: list[Any], kind: LabelKind, name: str, file: str) -> Iterator[_Found]:
    for at, given in enumerate(labels, 1):
        place = " ".join(filter(None, (name, f"label {at}")))
        if isinstance(given, str):
            yield _Found(place, {"label": given, "kind": kind})
        elif isinstance(given, dict) and isinstance(given.get("label"), str):
            yield _Found(place, {"kind": kind, **given})
        else:
            raise InvalidInput("must be a label, or an object with a label", where=f"{file}: {place}")


def _kind(name: str, where: str) -> LabelKind:
    kind = KINDS.get(name.replace("-", "_").replace(" ", "_").lower())
    if kind is None:
        raise InvalidInput(f"{shown(name)} is not a kind of label: use {', '.join(KINDS)}", where=where)
    return kind


def _closed(data: dict[str, Any], file: str) -> bool:
    closed = data.get("closed", False)
    if not isinstance(closed, bool):
        raise InvalidInput("must be true or false", where=file, field="closed")
    return closed
