"""No file of the project contains a word of `FORBIDDEN`."""

import re

import pytest

from tests.parts import ROOT, source_files

SUFFIXES = (".py", ".md", ".toml", ".yml", ".yaml", ".tcss", ".sh")
FORBIDDEN = (
    # other names for one concept of the glossary
    r"coins?|tenants?|compress(?:ed|es|ing|ion)?|shortened|patience|purse|payer|call_?identity|(?<!upper_)bound_usd",
    # words that a reader must read twice
    r"told|tells|whoever|whom|nobody|somebody|house|stands|dear|dearer|anew|thereof|asked for by name",
    r"all the same|in vain|made do|makes? do|comes of|becomes? of|became of|at its most|faster to the",
    r"(?<!there )(?:is|are|was) no (?!longer)[a-z]+",  # "is no Monday": write "is not a Monday"
)
PATTERN = "|".join(FORBIDDEN).replace(" ", "[ _]")  # in an identifier, words are joined by `_`
WORDS = re.compile(rf"(?<![a-z])(?:{PATTERN})(?![a-z])", re.IGNORECASE)
# Files that are not the project's own prose: dictionaries, texts of customers, prompts whose wording is part of a
# request's fingerprint, and the list of these words.
NOT_PROSE = (
    "docs/glossary.md",
    "parley/domain/generate/words.py",
    "samples/",
    "simulator/coaching",
    "simulator/endings.py",
    "simulator/filling.py",
    "simulator/lexicon.py",
    "simulator/text.py",
    "tests/test_vocabulary.py",
)
ALLOWED = {
    # The system's account that PostgreSQL runs as.
    ("docs/operations.md", "nobody"),
    ("starter/embedded/postgres.py", "nobody"),
    ("tests/starter/test_embedded.py", "nobody"),
    # Prompts.
    ("parley/domain/auto_analyze/prompts.py", "stands"),
    ("parley/domain/coaching/prompts.py", "stands"),
    ("parley/domain/generate/prompts.toml", "stands"),
    ("parley/domain/generate/prompts.toml", "whom"),
    ("parley/domain/generate/quality.py", "is no merit"),
    # An attribute of the library zipfile.
    ("parley/client/chat_files.py", "compress"),
    # An option of Temporal's SDK.
    ("parley/connection.py", "compression"),
    # An option of the library websockets.
    ("benchmarks/stream_sender.py", "compression"),
    ("benchmarks/streams.py", "compression"),
    ("parley/streams/receiver.py", "compression"),
    ("parley/streams/sender.py", "compression"),
    ("simulator/twilio/line.py", "compression"),
    # Texts of customers in tests.
    ("benchmarks/scripts.py", "told"),
    ("parley/domain/conversation/extraction.py", "told"),
    # The name of an option of FFmpeg.
    ("parley/report/shrinking.py", "compression"),
    ("tests/domain/auto_analyze/test_batching.py", "nobody"),
    ("tests/domain/conversation/test_extraction.py", "told"),
    ("tests/workflows/test_purge.py", "nobody"),
    # Old names that the changelog mentions.
    ("CHANGELOG.md", "patience"),
}


def project_files() -> list[str]:
    names = (str(path.relative_to(ROOT)) for path in source_files(*SUFFIXES))
    return [name for name in names if not name.startswith(NOT_PROSE)]


def offences(text: str) -> list[str]:
    """The forbidden words of a text, in lower case. An identifier's parts are words."""
    return [found.group().lower() for found in WORDS.finditer(text)]


@pytest.mark.parametrize("name", project_files())
def test_no_file_has_a_forbidden_word(name: str):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [(number, word) for number, line in enumerate(lines, 1) for word in offences(line)]
    assert [(number, word) for number, word in found if (name, word) not in ALLOWED] == []


def test_every_allowed_word_occurs():
    unused = [(name, word) for name, word in ALLOWED if word not in offences((ROOT / name).read_text(encoding="utf-8"))]
    assert unused == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def told_of_it():", ["told"]),
        ("the tenant's coins", ["tenant", "coins"]),
        ("is no Monday", ["is no monday"]),
        ("test_it_is_no_harm", ["is_no_harm"]),
        ("there is no key, and it is no longer valid", []),
        ("household goods, tenanted", []),
    ],
)
def test_a_forbidden_word_is_found(text: str, words: list[str]):
    assert offences(text) == words
