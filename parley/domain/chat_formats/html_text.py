"""The text of a message that is HTML."""

from html.parser import HTMLParser

LINES = frozenset(("br", "p", "div", "li", "tr", "h1", "h2", "h3", "h4", "blockquote", "pre", "ul", "ol", "table"))
SILENT = frozenset(("script", "style", "head", "title"))


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag in LINES:
            self.parts.append("\n")
        self._silent += tag in SILENT

    def handle_endtag(self, tag: str) -> None:
        if tag in LINES:
            self.parts.append("\n")
        self._silent -= tag in SILENT and self._silent > 0

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


def plain_text(html: str) -> str:
    """The text of HTML, with a line for each of its paragraphs. Text without markup stays as it is."""
    if "<" not in html and "&" not in html:
        return html.strip()
    parser = _Texts()
    parser.feed(html)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).split("\n"))
    return "\n".join(line for line in lines if line)
