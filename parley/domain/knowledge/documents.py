"""Reads the text of a document: its title, and its sections with the headings above them.

Nothing of a document is executed or fetched: scripts, styles and comments of HTML are left out.
"""

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser

from parley.domain.errors import InvalidInput
from parley.domain.knowledge.contract import DocumentKind
from parley.domain.model import is_blank, storable
from parley.domain.text import one_line

MOST_CHARACTERS = 5_000_000
TITLE_CHARACTERS = 200
DECLARED_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([A-Za-z0-9_-]{1,40})", re.IGNORECASE)
# Encodings of texts; Python's other codecs decode anything from ZIP to ROT13.
CHARSETS = re.compile(
    r"utf-?8|us-ascii|iso-?8859-\d{1,2}|latin-?1|windows-125\d|koi8-[ru]|shift_jis|euc-(?:jp|kr)|gb(?:k|2312|18030)|big5",
    re.IGNORECASE,
)
# What browsers read where a page declares an encoding, by Python's names of both:
# https://encoding.spec.whatwg.org/#names-and-labels
BROWSER_CODECS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
# They have bytes without a character, which pages that declare an ISO encoding may have.
WITH_GAPS = frozenset(("cp1252", "cp1254", "cp874"))
# Possessive: without that, the time doubles with each comment of a page that is not HTML.
HTML_START = re.compile(
    r"\s*+(?:<!--(?:(?!-->).)*+-->\s*+)*+<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
# Lines of YAML, the first with a key: text between two rules is not front matter.
FRONT_MATTER = re.compile(r"---\n(?=\w)(?:\w[\w .:-]*:(?:[ \t].*)?\n|-?[ \t].*\n|#.*\n|[]}]?\n)++(?:---|\.\.\.)\n")
FENCE = re.compile(r"[ ]{0,3}(```|~~~)")
HEADING = re.compile(r"[ ]{0,3}(#{1,6})[ \t]+(.*)")
UNDERLINE = re.compile(r"[ ]{0,3}(=+|-{2,})[ \t]*$")
SUFFIXES = {
    ".txt": DocumentKind.TEXT,
    ".text": DocumentKind.TEXT,
    ".md": DocumentKind.MARKDOWN,
    ".markdown": DocumentKind.MARKDOWN,
    ".html": DocumentKind.HTML,
    ".htm": DocumentKind.HTML,
    ".pdf": DocumentKind.PDF,
}


# Elements whose content a reader does not see, and those that begin a line.
HIDDEN = frozenset("script style noscript template svg math iframe object canvas select".split())  # noqa: SIM905
# fmt: off
BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "footer", "form", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table",
    "tbody", "thead", "tr", "ul"
))
# fmt: on
HEADINGS = {f"h{level}": level for level in range(1, 7)}
ENDS_HEADING = (BLOCKS - {"br"}) | HEADINGS.keys() | {"td", "th"}


@dataclass(frozen=True)
class Section:
    """A text and the headings above it, the outermost first."""

    headings: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Document:
    """The text of a document. `title` is empty where the content has none."""

    kind: DocumentKind
    title: str
    sections: tuple[Section, ...]

    @property
    def characters(self) -> int:
        """How long the text is."""
        return sum(len(section.text) for section in self.sections)


def read_document(content: bytes, kind: DocumentKind, pages: tuple[str, ...] = ()) -> Document:
    """Read the text of a document.

    Args:
        content: the bytes of the file.
        kind: its form.
        pages: the texts of the pages of a PDF, which are read elsewhere.

    Raises:
        InvalidInput: it is not text in a known encoding, too long, or has nothing to read.
    """
    if kind is DocumentKind.PDF:
        made = Document(kind, "", tuple(Section((f"page {at}",), storable(page)) for at, page in enumerate(pages, 1)))
    else:
        text = storable(decoded(content, kind)).replace("\r\n", "\n").replace("\r", "\n")
        made = READERS[kind](text)
    if made.characters > MOST_CHARACTERS:
        raise InvalidInput(f"has {made.characters:,} characters; at most {MOST_CHARACTERS:,} are allowed: split it")
    if all(is_blank(section.text) for section in made.sections):
        hint = ": a scanned PDF must be made searchable first" if kind is DocumentKind.PDF else ""
        raise InvalidInput(f"has no text{hint}")
    return made


def kind_of(name: str, content: bytes) -> DocumentKind:
    """The form of a document, by its content and the end of its name.

    Raises:
        InvalidInput: it is none that can be read.
    """
    if content.lstrip()[:5] == b"%PDF-":
        return DocumentKind.PDF
    known = SUFFIXES.get(name[name.rfind(".") :].lower() if "." in name else "")
    if known is DocumentKind.PDF:
        raise InvalidInput("is not a PDF, although its name says so")
    if known is not None:
        return known
    text = decoded(content, DocumentKind.TEXT)
    return DocumentKind.HTML if HTML_START.match(text[:2000]) else DocumentKind.MARKDOWN


def decoded(content: bytes, kind: DocumentKind) -> str:
    """The text of bytes: UTF-8, UTF-16 with its mark, or the encoding that an HTML page without a mark declares.

    Raises:
        InvalidInput: they are not text.
    """
    declared = DECLARED_CHARSET.search(content[:2048]) if kind is DocumentKind.HTML else None
    label = declared[1].decode("ascii") if declared else ""
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = content.decode("utf-16")
        elif CHARSETS.fullmatch(label) and not content.startswith(codecs.BOM_UTF8):
            name = codecs.lookup(label).name
            codec = BROWSER_CODECS.get(name, name)
            text = content.decode(codec, "replace" if codec in WITH_GAPS else "strict")
        else:
            text = content.decode("utf-8-sig")
    except (UnicodeDecodeError, LookupError):
        raise InvalidInput("is not text, Markdown, HTML or PDF, or not in UTF-8: save it as UTF-8") from None
    if "\0" in text[:10_000]:
        raise InvalidInput("is not text, Markdown, HTML or PDF: it has NUL characters")
    return text


def _read_text(text: str) -> Document:
    return Document(DocumentKind.TEXT, "", (Section((), text),))


def _read_markdown(text: str) -> Document:
    outline = _Outline()
    is_code = False
    front_matter = FRONT_MATTER.match(text)
    lines = text[front_matter.end() if front_matter else 0 :].split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        is_code ^= FENCE.match(line) is not None
        heading = None if is_code else HEADING.match(line)
        underline = UNDERLINE.match(following) if line.strip() and not is_code else None
        if heading:
            outline.open(len(heading[1]), heading[2].rstrip(" \t#"))
        elif underline and not line.lstrip().startswith(("-", "|", "#", ">", "*")):
            outline.open(1 if underline[1].startswith("=") else 2, line)
        elif not (UNDERLINE.match(line) and not is_code):
            outline.write(line + "\n")
    return outline.document(DocumentKind.MARKDOWN)


@dataclass
class _Outline:
    """Collects sections: the text below each heading, with the headings above it."""

    title: str = ""
    sections: list[Section] = field(default_factory=list[Section])
    _above: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    _text: list[str] = field(default_factory=list[str])

    def open(self, level: int, heading: str) -> None:
        """Begin the section of a heading."""
        self._close()
        name = one_line(heading, TITLE_CHARACTERS)
        if not name:
            return
        if level == 1 and not self.title:
            self.title = name
        self._above = [*(one for one in self._above if one[0] < level), (level, name)]
        if len(heading) > TITLE_CHARACTERS:  # the name has only its beginning
            self.write(heading + "\n\n")

    def write(self, text: str) -> None:
        self._text.append(text)

    def document(self, kind: DocumentKind) -> Document:
        self._close()
        return Document(kind, self.title, tuple(self.sections))

    def _close(self) -> None:
        text = "".join(self._text).strip("\n")
        if text.strip():
            self.sections.append(Section(tuple(name for _, name in self._above), text))
        self._text = []


class _Page(HTMLParser):
    """Collects what a page of HTML shows."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.outline = _Outline()
        self._hidden = 0
        self._level = 0
        self._heading: list[str] | None = None
        self._title: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._hidden += tag in HIDDEN
        # Some pages forget the end of a heading. What begins a line after its text is not part of it.
        if self._heading and tag in ENDS_HEADING:
            self._end_heading()
        if tag == "title":
            self._title = []
        elif tag in HEADINGS:
            self._level, self._heading = HEADINGS[tag], []
        elif tag in BLOCKS:
            self._say("\n\n" if tag in ("p", "div", "section", "ul", "ol", "table") else "\n")
            self._say("- " if tag == "li" else "")
        elif tag in ("td", "th"):
            self._say(" | ")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in HIDDEN and self._hidden > 0
        if tag == "title" and self._title is not None:
            self.outline.title = self.outline.title or one_line("".join(self._title), TITLE_CHARACTERS)
            self._title = None
        elif tag in HEADINGS:
            self._end_heading()
        elif tag in BLOCKS:
            self._say("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._say(re.sub(r"\s+", " ", data))

    def close(self) -> None:
        super().close()
        if self._heading:  # it is above nothing
            self.outline.write("\n\n" + "".join(self._heading))

    def _end_heading(self) -> None:
        if self._heading is not None:
            self.outline.open(self._level, "".join(self._heading))
        self._heading = None

    def _say(self, text: str) -> None:
        if self._title is not None:
            self._title.append(text)
        elif self._heading is not None:
            if self._heading or text.strip():
                self._heading.append(text)
        else:
            self.outline.write(text)


def _read_html(text: str) -> Document:
    page = _Page()
    page.feed(text)
    page.close()
    return page.outline.document(DocumentKind.HTML)


READERS: dict[DocumentKind, Callable[[str], Document]] = {
    DocumentKind.TEXT: _read_text,
    DocumentKind.MARKDOWN: _read_markdown,
    DocumentKind.HTML: _read_html,
}
