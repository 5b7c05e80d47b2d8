"""Documents of every form as text, with their headings."""

import pytest

from parley.domain.knowledge.contract import DocumentKind
from parley.domain.knowledge.documents import kind_of, read_document


def sections(content: str | bytes, kind: DocumentKind) -> list[tuple[tuple[str, ...], str]]:
    data = content.encode() if isinstance(content, str) else content
    return [(one.headings, " ".join(one.text.split())) for one in read_document(data, kind).sections]


@pytest.mark.parametrize(
    ("page", "read"),
    [
        ("<p>a</p><h2>Refunds<p>We refund all.", [((), "a"), (("Refunds",), "We refund all.")]),
        ("<h1>One<h2>Two</h2>b", [(("One", "Two"), "b")]),
        ("<h2><div>Wrapped</div></h2>b", [(("Wrapped",), "b")]),
        ("<h2>Two<br>lines</h2>b", [(("Two lines",), "b")]),
        ("<p>a</p><h2>The last words", [((), "a")]),
    ],
)
def test_a_heading_that_is_not_closed_ends_where_something_else_begins(page: str, read: list[object]):
    assert sections(f"<body>{page}", DocumentKind.HTML) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("---\ntitle: A\ntags:\n  - b\n- c\n# d\n\n---\nText", "Text"),
        ("---\ntitle: A\n---", ""),
        ("---\n\nBegins with a rule.\n\n---\n\nText", "Begins with a rule. Text"),
        ("---\nNote: the rest matters.\n\nIt does.\n\n---\n\nText", "Note: the rest matters. It does. Text"),
    ],
)
def test_front_matter_is_left_out_and_a_rule_is_not_front_matter(text: str, read: str):
    assert [one for _, one in sections(f"{text}\n\nend", DocumentKind.MARKDOWN)] == [f"{read} end".strip()]


@pytest.mark.parametrize(
    ("charset", "content", "read"),
    [
        ("iso-8859-1", b"20 \x80, don\x92t", "20 €, don’t"),
        ("gb2312", "镕基".encode("gbk"), "镕基"),
        ("shift_jis", "①".encode("cp932"), "①"),
        ("koi8-r", "да".encode("koi8-r"), "да"),
        ("utf8", "да".encode(), "да"),
        ("zip", "да".encode(), "да"),
    ],
)
def test_a_declared_encoding_is_read_as_browsers_do(charset: str, content: bytes, read: str):
    page = b'<html><meta charset="' + charset.encode() + b'"><p>' + content
    assert sections(page, DocumentKind.HTML) == [((), read)]


def test_a_mark_of_utf_8_wins_over_a_declared_encoding():
    page = b'\xef\xbb\xbf<html><meta charset="iso-8859-1"><p>' + "да".encode()
    assert sections(page, DocumentKind.HTML) == [((), "да")]


def test_pages_of_a_pdf_may_have_characters_that_cannot_be_stored():
    (section,) = read_document(b"", DocumentKind.PDF, ("a\0b \ud835 c",)).sections
    assert "\0" not in section.text
    section.text.encode()


def test_a_heading_as_long_as_a_file_takes_linear_time():
    assert read_document(f"# {'a # ' * 100_000}b ##\nText".encode(), DocumentKind.MARKDOWN).title.startswith("a # a")
    assert read_document(b"# a b ##\nText", DocumentKind.MARKDOWN).title == "a b"


def test_comments_before_text_take_linear_time():
    comments = "<!-- -->" * 200
    assert kind_of("notes", f"{comments}text".encode()) is DocumentKind.MARKDOWN
    assert kind_of("notes", f"{comments}<html>".encode()) is DocumentKind.HTML
