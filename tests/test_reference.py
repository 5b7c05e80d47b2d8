"""docs/reference is what the code says, and says what everything means."""

import pytest
from typer.main import get_command

from parley.cli.main import app
from parley.settings import Settings
from tools.reference import DIRECTORY, PAGES, commands


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_up_to_date(name: str):
    assert (DIRECTORY / name).read_text(encoding="utf-8") == PAGES[name](), "run python tools/reference.py"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_says_what_it_means(name: str):
    assert Settings.model_fields[name].description


def test_every_command_and_option_says_what_it_means():
    found = list(commands(get_command(app), ("parley",)))
    assert len(found) > 20
    assert [words for words, command in found if not command.help] == []
    silent = [
        (words, parameter.name)
        for words, command in found
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.help
    ]
    assert silent == []
