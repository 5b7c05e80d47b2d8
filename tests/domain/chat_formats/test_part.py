"""Times and texts of exports, in every form in which they are written."""

from datetime import UTC, datetime
from typing import Any

import pytest

from parley.domain.chat_formats.drafts import Draft
from parley.domain.chat_formats.html_text import plain_text
from parley.domain.chat_formats.part import Part
from parley.domain.errors import InvalidInput

NOON = datetime(2024, 3, 9, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "given",
    [
        1709985600,
        1709985600.0,
        "1709985600",
        1709985600_000,
        1709985600_000_000,
        "2024-03-09T12:00:00Z",
        "2024-03-09T12:00:00.000000000Z",
        "2024-03-09T14:00:00+02:00",
        "2024-03-09 12:00:00 UTC",
        "2024-03-09 12:00:00",
    ],
)
def test_a_time_is_read_in_every_form(given: Any):
    assert Part({"at": given}, "").when("none", "at") == NOON


@pytest.mark.parametrize(
    "given", ["noon", "NaN", 1e400, -1e30, "1e999", True, [], {}, "2024-13-01", "0001-01-01T00:00:00+14:00"]
)
def test_what_is_not_a_time_is_refused(given: Any):
    with pytest.raises(InvalidInput, match=r"^export: a\.at: is not a time: use ISO 8601, or seconds since 1970$"):
        Part({"at": given}, "export", "a").when("at")


def test_a_time_that_is_missing_is_none():
    assert (Part({"at": None}, "").when("at"), Part({"at": ""}, "").when("at"), Part({}, "").when("at")) == (None,) * 3


def test_the_first_name_with_text_is_taken():
    part = Part({"a": None, "b": "", "c": " ", "d": 0, "e": "x\0"}, "export")
    assert part.text("none", "a", "b", "c", "d", "e") == "0"
    assert part.text("a", "b", "c") == ""
    with pytest.raises(InvalidInput, match=r"^export: e: contains '\\x00'"):
        part.text("b", "e")


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("plain", "plain"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<p>a</p><p>b &amp; c</p>", "a\nb & c"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<div>a <b>bold</b>  word</div>", "a bold word"),
        ("<style>p{}</style><script>alert(1)</script>x", "x"),
        ("</script></p>x", "x"),
        ("<ul><li>a</li><li>b</li></ul>", "a\nb"),
        ("&lt;img src=x&gt;", "<img src=x>"),
        ("<p>" * 10_000 + "deep", "deep"),
    ],
)
def test_html_becomes_text(html: str, text: str):
    assert plain_text(html) == text


@pytest.mark.parametrize(
    ("roles", "changes", "containment"),
    [
        ("ub", {}, "selfService"),
        ("ubu", {}, "dropOff"),
        ("b", {}, "dropOff"),
        ("uba", {}, "agent"),
        ("ub", {"handed_over": True}, "agent"),
        ("ubu", {"solved": True}, "selfService"),
        ("ub", {"solved": False}, "dropOff"),
        ("ua", {"solved": True}, "agent"),
    ],
)
def test_a_session_ends_as_the_format_says_or_by_the_last_word(roles: str, changes: dict[str, Any], containment: str):
    draft = Draft("s", **changes)
    for role in roles:
        draft.say({"u": "user", "b": "bot", "a": "agent"}[role], "x")  # pyright: ignore[reportArgumentType]
    assert draft.session()["containment"] == containment
