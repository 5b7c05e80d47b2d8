"""Removes the marks of Markdown and HTML, emoji and control characters; makes sentences of lists and tables."""

import html
import re
import unicodedata

from parley.domain.speech.english import DAYS, is_english
from parley.domain.speech.pieces import PieceFilter, Step

# Pictures that no voice should name. The joiner U+200D and the selector U+FE0F also occur in scripts: see `_is_silent`.
PICTURES = (
    "\u20e3\u2190-\u21ff\u2300-\u23ff\u2500-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297\u3299"
    "\ufe0f\U0001f000-\U0001faff\U000e0020-\U000e007f"
)
PICTURE = re.compile(f"[{PICTURES}]")
# What passes as it is.
PLAIN = re.compile(rf"[^\\*_`~<&|\[\]!\n\u200d\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{PICTURES}]+")
SPACES, STARS, UNDERLINES = re.compile(r"[ \t]*"), re.compile(r"\**"), re.compile(r"_*")
BACKTICKS, TILDES, HASHES = re.compile(r"`*"), re.compile(r"~*"), re.compile(r"#{0,6}")
RULE = re.compile(r"[-*_=+•| \t:]*")
DIGITS = re.compile(r"[0-9]*")
LIST_MARK = re.compile(r"[-*+•][ \t]+(?:\[[ xX]\][ \t]+)?")
CHECKBOX = re.compile(r"[-*+•][ \t]+(?:\[(?:[ xX](?:\](?:[ \t]*)?)?)?)?\Z")
TAG = re.compile(r"</?[a-zA-Z][^<>\n]*>|<!--[^<>\n]*-->")
ADDRESS_IN_BRACKETS = re.compile(r"<((?:https?://|www\.|[^\s<>@]+@)[^\s<>]+)>")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")
CITATION = re.compile(r"\[(?:\d{1,3}|\^[\w-]{1,20})(?=\])")
OPEN_CITATION = re.compile(r"\[(?:\d{0,3}|\^[\w-]{0,20})\Z")
SEPARATOR = re.compile(r"[ \t]*\|?[ \t:|-]*-[ \t:|-]*\Z")
CELL_BORDER = re.compile(r"(?<!\\)\|")
# A fence around these holds text; around anything else it holds code, which no voice can say.
TEXT_FENCES = {"", "text", "txt", "plain", "plaintext", "markdown", "md"}
CODE_LEFT_OUT = "Code left out. "
# What a cell of a table says in English.
CELLS = {**DAYS, **dict.fromkeys("✅✓✔☑", "yes"), **dict.fromkeys("❌✗✘✖☒", "no")}
ARROWS = frozenset("→⇒➜➔➡")
# Longer than this, a row is not a table's and an open mark is text.
MOST_ROW, MOST_MARK, MOST_RULE = 4000, 200, 200
ENDS = frozenset(".!?:;,…。！？：；，、")
BEYOND_LATIN = "\u0530"


class Markup(PieceFilter):
    """Plain text of Markdown that arrives in pieces. An asterisk that multiplies becomes the sign for it."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self._is_english = is_english(language)
        self._language = language
        self._line_starts = True
        # A heading, a list item or a row: its end is the end of a sentence.
        self._is_block = False
        self._last_said = ""
        self._last_read = "\n"
        self._is_bold = False
        self._in_code = ""
        # In the address of a link: how many brackets are open.
        self._link_brackets = 0
        self._link_closes = ")"
        self._header: tuple[str, ...] = ()
        self._rows = 0

    def release(self) -> str:
        """Give out a mark that only an image would begin."""
        if self._text[self._at :] != "!":
            return ""
        self._at += 1
        return self._note("!")

    def _next(self) -> Step | None:
        if self._in_code:
            return self._code_line()
        if self._link_brackets:
            return self._address()
        step = self._line_start() if self._line_starts else self._inline()
        if step and step.end > self._at:
            self._last_read = self._text[step.end - 1]
        if step and step.said:
            self._note(step.said)
        return step

    def _ended(self) -> str:
        return self._end_of_table()

    def _note(self, said: str) -> str:
        self._last_said = said.rstrip()[-1:] or self._last_said
        return said

    def _end_sentence(self) -> str:
        """What ends a heading, an item or a paragraph, so that the voice pauses."""
        last = self._last_said
        if not last or last in ENDS or last >= BEYOND_LATIN:
            return "\n"
        return ".\n"

    # The beginning of a line

    def _line_start(self) -> Step | None:
        at = self._run(SPACES, self._at)
        if self._is_cut(at):
            return None
        first = self._text[at : at + 1]
        if first == "|":
            return self._row(at)
        step = Step(at + len(first)) if first in ("\n", "") else self._line_mark(first, at)
        if step is None:
            return None
        left = self._note(self._end_of_table())
        return Step(step.end, left + (self._end_sentence() if first in ("\n", "") else step.said))

    def _line_mark(self, first: str, at: int) -> Step | None:
        if first == "#":
            return self._heading(at)
        if first == ">":
            return Step(at + 1)
        if first in "-*_=+•:":
            return self._rule_or_item(at)
        if first in "`~":
            return self._fence(at, BACKTICKS if first == "`" else TILDES)
        return self._numbered(at) if first in "0123456789" else self._text_of_line(at)

    def _text_of_line(self, at: int) -> Step:
        """The line has no mark here. What it says follows."""
        self._line_starts = False
        return Step(at)

    def _block(self, end: int, said: str = "") -> Step:
        self._line_starts, self._is_block = False, True
        return Step(end, said)

    def _heading(self, at: int) -> Step | None:
        end = self._run(HASHES, at)
        if self._is_cut(end):
            return None
        return self._block(end) if self._text[end : end + 1] in " \t\n" else self._text_of_line(at)

    def _rule_or_item(self, at: int) -> Step | None:
        end = self._run(RULE, at)
        if end - at >= MOST_RULE:
            return Step(at + MOST_RULE)
        if self._is_cut(end):
            return None
        if self._text[end : end + 1] in ("\n", ""):
            return Step(end)
        return self._item(at)

    def _item(self, at: int) -> Step | None:
        if not self._is_final and CHECKBOX.match(self._text, at):
            return None
        mark = LIST_MARK.match(self._text, at)
        return self._block(mark.end()) if mark else self._text_of_line(at)

    def _numbered(self, at: int) -> Step | None:
        end = self._run(DIGITS, at)
        if end - at > 3:
            return self._text_of_line(at)
        if self._is_cut(end + 1):
            return None
        if self._text[end : end + 1] in (".", ")") and self._text[end + 1 : end + 2] in (" ", "\t"):
            return self._block(end + 2, f"{self._text[at:end]}, ")
        return self._text_of_line(at)

    # Code

    def _fence(self, at: int, marks: re.Pattern[str]) -> Step | None:
        end = self._run(marks, at)
        if self._is_cut(end):
            return None
        if end - at < 3:
            return self._text_of_line(at)
        line_end = self._text.find("\n", end)
        if line_end < 0 and not self._is_final and len(self._text) - end < MOST_MARK:
            return None
        line_end = len(self._text) if line_end < 0 else line_end
        if self._text[end:line_end].strip().lower() in TEXT_FENCES:
            return Step(min(line_end + 1, len(self._text)))
        self._in_code = self._text[at:end]
        return Step(line_end, CODE_LEFT_OUT if self._is_english else "")

    def _code_line(self) -> Step | None:
        """Leave out a line of code. At `_at` is the end of the line before."""
        line_end = self._text.find("\n", self._at + 1)
        if line_end < 0 and not self._is_final:
            return Step(len(self._text) - 1) if self._is_long_line() else None
        line_end = len(self._text) if line_end < 0 else line_end
        line = self._text[self._at : line_end]
        if line.startswith("\n") and line.strip().startswith(self._in_code) and not line.strip().strip("`~"):
            self._in_code, self._line_starts = "", True
        return Step(line_end)

    def _is_long_line(self) -> bool:
        return len(self._text) - self._at > MOST_ROW

    # Tables

    def _row(self, at: int) -> Step | None:
        end = self._text.find("\n", at)
        if end < 0 and len(self._text) - at > MOST_ROW:
            return self._text_of_line(at)
        if end < 0 and not self._is_final:
            return None
        end = len(self._text) if end < 0 else end
        return Step(min(end + 1, len(self._text)), self._row_said(self._text[at:end]))

    def _row_said(self, row: str) -> str:
        self._rows += 1
        is_separator = SEPARATOR.match(row) is not None
        cells = tuple(self._cell(cell) for cell in CELL_BORDER.split(row.strip().removeprefix("|").removesuffix("|")))
        if self._rows == 1:
            self._header = () if is_separator else cells
        if self._rows == 1 or is_separator:
            return ""
        first = self._end_of_header() if self._rows == 2 else ""
        return first + _joined(self._header, cells)

    def _end_of_header(self) -> str:
        """The second row is not a separator: the first one was not a header, and is said as a row."""
        said, self._header = _joined((), self._header), ()
        return said

    def _end_of_table(self) -> str:
        """A table that ends with its header has said nothing yet."""
        rows, header = self._rows, self._header
        self._rows, self._header = 0, ()
        return _joined((), header) if 1 <= rows <= 2 and header else ""

    def _cell(self, cell: str) -> str:
        text = cell.strip().replace("\\|", "|")
        if self._is_english:
            text = CELLS.get(text.rstrip("\ufe0f"), text)
        inline = Markup(self._language)
        inline._line_starts = False
        return (inline.feed(text) + inline.flush()).strip()

    # Within a line

    def _inline(self) -> Step | None:
        at, character = self._at, self._text[self._at]
        plain = PLAIN.match(self._text, at)
        if plain:
            return Step(plain.end(), plain.group())
        if character == "\n":
            return self._newline(at)
        reader = {
            "\\": self._backslash,
            "*": self._star,
            "_": self._underline,
            "~": self._tilde,
            "<": self._tag,
            "&": self._entity,
            "|": self._bar,
            "[": self._opening,
            "]": self._closing,
            "!": self._exclamation,
        }.get(character)
        return reader(at) if reader else Step(at + 1, self._silent(character))

    def _newline(self, at: int) -> Step:
        self._line_starts = True
        is_block, self._is_block = self._is_block, False
        return Step(at + 1, self._end_sentence() if is_block else "\n")

    def _silent(self, character: str) -> str:
        """A picture, a backtick, a control character. The joiner stays where it is not between pictures."""
        if character in ARROWS:
            return ","
        is_joiner = character == "\u200d" and not PICTURE.match(self._last_read)
        return character if is_joiner else ""

    def _backslash(self, at: int) -> Step | None:
        if self._is_cut(at + 1):
            return None
        following = self._text[at + 1 : at + 2]
        is_escape = following == "\n" or unicodedata.category(following or "a")[0] in "PS"
        return Step(at + 1, "" if is_escape else "\\")

    def _star(self, at: int) -> Step | None:
        end = self._run(STARS, at)
        after = self._run(SPACES, end)
        operand = after + (self._text[after : after + 1] == "`")
        if self._is_cut(operand):
            return None
        is_spaced = after > end
        is_even = is_spaced == self._last_read.isspace()
        multiplies = is_even and (self._last_said.isdigit() or self._last_said == ")")
        if is_even and is_spaced and end - at == 1 and not multiplies and self._is_english:
            return Step(end, "star")
        if end - at > 2 or not multiplies or self._text[operand : operand + 1] not in {*"0123456789($€£"}:
            self._is_bold ^= end - at == 2
            return Step(end)
        if end - at == 2:
            return self._power(end)
        return Step(end, "×" if is_spaced else " × ")

    def _power(self, end: int) -> Step:
        if self._is_bold:
            self._is_bold = False
            return Step(end)
        return Step(end, "^")

    def _underline(self, at: int) -> Step | None:
        end = self._run(UNDERLINES, at)
        if self._is_cut(end):
            return None
        is_in_word = self._last_read.isalnum() and self._text[end : end + 1].isalnum()
        return Step(end, " " if is_in_word else "")

    def _tilde(self, at: int) -> Step | None:
        end = self._run(TILDES, at)
        if self._is_cut(end):
            return None
        is_about = end - at == 1 and self._text[end : end + 1] in {*"0123456789$€£"}
        return Step(end, "~" if is_about else "")

    def _tag(self, at: int) -> Step | None:
        if self._is_cut(at + 1):
            return None
        if not re.match(r"[a-zA-Z/!]", self._text[at + 1 : at + 2]):
            return Step(at + 1, "<")
        if self._is_open(at, "<>\n"):
            return None
        end = at + MOST_MARK
        if address := ADDRESS_IN_BRACKETS.match(self._text, at, end):
            return Step(address.end(), f" {address[1]} ")
        tag = TAG.match(self._text, at, end)
        return Step(tag.end(), " ") if tag else Step(at + 1, "<")

    def _entity(self, at: int) -> Step | None:
        if self._is_open(at, "; \n&<"):
            return None
        found = ENTITY.match(self._text, at)
        return Step(found.end(), html.unescape(found.group())) if found else Step(at + 1, "&")

    def _is_open(self, at: int, ends: str) -> bool:
        """Whether a mark may still become whole: none of its ends has arrived, and it is not too long."""
        rest = self._text[at + 1 : at + MOST_MARK]
        return not self._is_final and len(rest) < MOST_MARK - 1 and not any(end in rest for end in ends)

    def _bar(self, at: int) -> Step:
        return Step(at + 1, ", " if self._last_read.isspace() else " ")

    def _opening(self, at: int) -> Step | None:
        if not self._is_final and OPEN_CITATION.match(self._text, at):
            return None
        found = CITATION.match(self._text, at)
        return Step(found.end() if found else at + 1)

    def _closing(self, at: int) -> Step | None:
        if self._is_cut(at + 1):
            return None
        following = self._text[at + 1 : at + 2]
        if following not in ("(", "["):
            return Step(at + 1)
        self._link_brackets, self._link_closes = 1, ")" if following == "(" else "]"
        return Step(at + 2)

    def _exclamation(self, at: int) -> Step | None:
        if self._is_cut(at + 1):
            return None
        return Step(at + 1, "" if self._text[at + 1 : at + 2] == "[" else "!")

    def _address(self) -> Step:
        """Leave out a character of a link's address. A line's end closes what is not closed."""
        character = self._text[self._at]
        self._link_brackets += character == "(" and self._link_closes == ")"
        self._link_brackets -= character == self._link_closes
        self._last_read = character
        if character == "\n":
            self._link_brackets = 0
            return Step(self._at)
        return Step(self._at + 1)


def _joined(header: tuple[str, ...], cells: tuple[str, ...]) -> str:
    """A row as a sentence: each cell with the name of its column."""
    names = (*header, *[""] * (len(cells) - len(header)))
    said = [f"{name} {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell]
    return f"{', '.join(said)}.\n" if said else ""
