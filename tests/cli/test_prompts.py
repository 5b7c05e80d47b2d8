"""`parley prompts`: the templates, without a stack or a database."""

import json

import pytest

from parley.cli.main import execute
from parley.domain.generate.prompts import templates


def test_all_prompts_are_listed(capsys: pytest.CaptureFixture[str]):
    assert execute(["prompts", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in listed] == [one.id for one in templates()]
    assert execute(["prompts"]) == 0
    assert "Everyday messages" in capsys.readouterr().out


def test_one_prompt_is_shown_verbatim(capsys: pytest.CaptureFixture[str]):
    assert execute(["prompts", "casual@1"]) == 0
    shown = capsys.readouterr().out
    assert "Voice: {{brand_voice}}" in shown
    assert "clear and friendly" in shown
    assert execute(["prompts", "session_analysis", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["id"], described["job"], described["placeholders"]) == (
        "session_analysis@4",
        "SessionAnalysis",
        [],
    )
    assert described["text"].startswith("You are {coach}.")


def test_an_unknown_prompt_exits_2(capsys: pytest.CaptureFixture[str]):
    assert execute(["prompts", "formal"]) == 2
    assert "there is no prompt 'formal'" in capsys.readouterr().err
