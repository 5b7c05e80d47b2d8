"""Files of labels that a run starts from."""

import json
from pathlib import Path
from typing import Any

import pytest

from parley import InvalidInput, LabelKind, Taxonomy, read_labels


def read(tmp_path: Path, name: str, content: Any, **options: Any) -> Taxonomy:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return read_labels(path, **options)


def shown(taxonomy: Taxonomy) -> list[tuple[str, str]]:
    return [(one.kind.value, one.label) for one in taxonomy.labels]


def test_one_label_a_line(tmp_path: Path):
    found = read(tmp_path, "labels.txt", "# ours\nLost parcel\n\n[transfer reason]\nNeeds approval\n")
    assert shown(found) == [("intent", "lost parcel"), ("transfer_reason", "needs approval")]
    assert not found.closed


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table(tmp_path: Path, delimiter: str):
    rows = [
        ["label", "kind", "definition", "examples"],
        ["Lost parcel", "", "A parcel did not come", "where is it | it is lost"],
        ["payment form", "drop_off_location", "", ""],
    ]
    found = read(tmp_path, "labels.csv", "\n".join(delimiter.join(row) for row in rows), closed=True)
    assert shown(found) == [("intent", "lost parcel"), ("drop_off_location", "payment form")]
    assert (found.labels[0].definition, found.labels[0].examples) == (
        "A parcel did not come",
        ("where is it", "it is lost"),
    )
    assert found.closed_kinds == (LabelKind.INTENT, LabelKind.DROP_OFF_LOCATION)


def test_json_by_kind(tmp_path: Path):
    given = {"closed": True, "intent": ["a", {"label": "b", "definition": "B"}], "transfer_reason": ["c"]}
    found = read(tmp_path, "labels.json", given)
    assert shown(found) == [("intent", "a"), ("intent", "b"), ("transfer_reason", "c")]
    assert found.closed
    assert not read(tmp_path, "labels.json", given, closed=False).closed
    assert shown(read(tmp_path, "list.json", ["a", {"label": "b"}])) == [("intent", "a"), ("intent", "b")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "", "a.txt: has no label"),
        ("a.txt", "refund\nparcel\nRefund ", "a.txt: line 3: Refund is on line 1 already, as refund (only case"),
        ("a.txt", "refund\nrefund", "line 2: refund is on line 1 already, as refund (the same label): remove one"),
        ("a.txt", "[reason]\nx", "a.txt: line 1: reason is not a kind of label: use intent, transfer_reason, drop"),
        ("a.txt", f"refund\n{'x' * 90}", "a.txt: line 2: label: has 90 characters"),
        ("a.txt", "ok\nunclassified", "a.txt: line 2: label: 'unclassified' marks sessions"),
        ("a.csv", "name\nx", "a.csv: line 1: has the column name: the columns are label, kind, definition, examples"),
        ("a.csv", "kind\nintent", "a.csv: line 1: has no column 'label'"),
        ("a.csv", "label,kind\nx,intent\ny,topic", "a.csv: line 3: topic is not a kind of label"),
        ("a.csv", "label\nx,y", "a.csv: line 2: has more cells than there are columns"),
        ("a.csv", 'label\n"x', "a.csv: line 2: is not a CSV row"),
        ("a.csv", "label,examples\nx,1|2|3|4", "a.csv: line 2: examples: Tuple should have at most 3 items"),
        ("a.json", '{"intent": ["a",\n}', "a.json: is not JSON: "),
        ("a.json", '{"intent": ["a", "A"]}', "a.json: intent label 2: A is on intent label 1 already, as a"),
        ("a.json", '{"intent": ["a", 3]}', "a.json: intent label 2: must be a label, or an object with a label"),
        ("a.json", '{"intent": [{"label": "a", "text": "b"}]}', "a.json: intent label 1: text: Extra inputs"),
        ("a.json", '{"topics": ["a"]}', "a.json: topics is not a kind of label"),
        ("a.json", '{"intent": "a"}', "a.json: intent: must be a list of labels"),
        ("a.json", '{"closed": 1, "intent": ["a"]}', "a.json: closed: must be true or false"),
        ("a.json", "3", "a.json: must be a list of labels, or an object with intent"),
    ],
)
def test_a_wrong_file_is_refused_by_its_place(tmp_path: Path, name: str, content: str, words: str):
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, name, content)
    assert words in str(refused.value)


def test_a_file_that_is_missing(tmp_path: Path):
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        read_labels(tmp_path / "none.txt")
