"""The console's own files: libraries are those of their authors, and the colours can be read."""

import hashlib
import re
from pathlib import Path

import pytest

from gateway.console import pages
from parley.report import page as report

STATIC = Path(pages.__file__).parent / "static"
VENDOR = STATIC / "vendor"
LISTED = re.findall(r"^\| `([\w.]+)` \|.*`([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.MULTILINE)
CSS = (report.STATIC / "report.css").read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.S)
)
PAIRS = [
    *((text, ground) for text in ("text", "quiet") for ground in ("page", "surface", "sunken")),
    *(("accent", ground) for ground in ("page", "surface", "info-soft")),
    *((tone, f"{tone}-soft") for tone in ("good", "warn", "bad")),
    *(("text", f"{tone}-soft") for tone in ("warn", "bad", "info")),
    ("bad", "surface"),
    ("on-accent", "accent"),
]


@pytest.mark.parametrize(("name", "sha256"), LISTED)
def test_a_library_is_the_file_that_its_authors_published(name: str, sha256: str):
    assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == sha256


def test_every_library_is_listed_with_its_licence():
    files = {path.name for path in VENDOR.iterdir()} - {"README.md"}
    assert files == {name for name, _ in LISTED} | {"htmx.LICENSE", "uplot.LICENSE"}


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_a_text_can_be_read_on_its_ground(text: str, ground: str, scheme: dict[str, str]):
    """WCAG 2.2, success criterion 1.4.3."""
    low, high = sorted((luminance(scheme[text]), luminance(scheme[ground])))
    assert (high + 0.05) / (low + 0.05) >= 4.5
