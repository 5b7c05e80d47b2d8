"""Rubrics are files: Parley's own, and those of a workspace, which are refused with the place of a mistake."""

import json
from pathlib import Path
from typing import Any

import pytest

from parley.domain.coaching.rubric import BUILT_IN, REFERENCE, built_in, built_in_rubrics, parse_rubric
from parley.domain.errors import InvalidInput

FILES = sorted((Path(__file__).parents[3] / "parley" / "domain" / "rubrics").glob("*.toml"))
OWN: dict[str, Any] = {
    "id": "our-demo",
    "version": 3,
    "title": "Product demo",
    "skill": [{"id": "clarity", "title": "Clarity", "weight": 1, "levels": {"0": "vague", "100": "clear"}}],
}


def changed(**changes: Any) -> str:
    return json.dumps(OWN | changes)


def skill(**changes: Any) -> dict[str, Any]:
    return {"skill": [OWN["skill"][0] | changes]}


def test_every_file_is_a_rubric_that_is_listed():
    assert {path.stem for path in FILES} == {*BUILT_IN} == {*built_in_rubrics()}
    assert all(rubric.id == name and rubric.version == 1 for name, rubric in built_in_rubrics().items())


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_weights_of_our_rubrics_are_percent(name: str):
    assert sum(one.weight for one in built_in_rubrics()[name].skill) == 100


def test_the_page_on_coaching_shows_every_level():
    page = (FILES[0].parents[3] / "docs" / "coaching.md").read_text(encoding="utf-8")
    for rubric in built_in_rubrics().values():
        for one in rubric.skill:
            levels = " | ".join(one.levels[score] for score in (0, 50, 100))
            assert f"| `{rubric.id}` | {one.title} (`{one.id}`) | {one.weight}% | {levels} |" in page


def test_a_rubric_is_json_or_toml():
    written = (
        'id = "our-demo"\nversion = 3\ntitle = "Product demo"\n[[skill]]\nid = "clarity"\ntitle = "Clarity"\n'
        'weight = 1\nlevels = { 0 = "vague", 100 = "clear" }\n'
    )
    assert parse_rubric(written, where="a.toml") == parse_rubric(changed(), where="a.json")


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("[", "", "is not JSON"),
        ("[" * 10_000, "", "is not JSON"),
        ("[]", "", "valid dictionary"),
        (changed(version=0), "version", "greater than or equal to 1"),
        (changed(id="Our Demo"), "id", "match pattern"),
        (changed(titel="x"), "titel", "not permitted"),
        (changed(title=" "), "title", "must not be blank"),
        (changed(skill=[]), "skill", "at least 1"),
        (changed(skill=OWN["skill"] * 2), "", "'clarity' is there twice"),
        (changed(**skill(weight=0)), "skill.0.weight", "greater than 0"),
        (changed(**skill(levels={"0": "vague"})), "skill.0", 'add 100 = "…"'),
        (
            changed(**skill(levels={"0": "a", "100": "b", "101": "c"})),
            "skill.0.levels.101",
            "less than or equal",
        ),
        (changed(**skill(levels={"0": "a", "100": "b", "good": "c"})), "skill.0.levels.good", "valid integer"),
        (changed(**skill(levels={"0": "a", "100": "b" * 301})), "skill.0.levels.100", "at most 300"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, field: str, message: str):
    with pytest.raises(InvalidInput) as refused:
        parse_rubric(text, where="own.json")
    assert (refused.value.where, refused.value.field) == ("own.json", field)
    assert message in str(refused.value)


def test_a_rubric_is_found_by_name_and_version():
    assert built_in("sales") == built_in("sales@1")
    assert built_in("our-demo") is None
    with pytest.raises(InvalidInput, match="no version 2; it has 1"):
        built_in("sales@2")
    for bad in ("", "Sales", "sales@", "sales@0", "../sales", "x" * 60):
        with pytest.raises(InvalidInput, match="is not the name of a rubric: use sales, support"):
            built_in(bad)
    assert REFERENCE.startswith("^")
