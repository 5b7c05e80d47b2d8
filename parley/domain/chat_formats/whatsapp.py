"""WhatsApp: the text file of an exported chat, from iOS and Android, in the date format of any region."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from parley.domain.chat_formats.drafts import Draft, Terms, parted
from parley.domain.errors import InvalidInput

Order = Literal["day", "month", "year"]
# Marks of the writing direction and of joined emoji at the beginning of a line or a name.
MARKS = "\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069\ufeff"
GENERATED = "\u200e"
BLANK = "[ \u00a0\u202f\u2009]"
HALF = rf"[AaPp]\.?{BLANK}?[Mm]\.?|凌晨|清晨|早上|上午|中午|下午|晚上|午前|午後|오전|오후|ص|م"
BETWEEN = "[\u200e\u200f]*(?:[./-]|년|월)[\u200e\u200f]*"
DATE = (
    rf"(\d{{1,4}}){BETWEEN}{BLANK}?(\d{{1,2}}){BETWEEN}{BLANK}?(\d{{1,4}})일?\.?[,،]?{BLANK}*"
    rf"(?:(?:klo|kl\.?|à){BLANK})?"
)
TIME = rf"({HALF})?{BLANK}?(\d{{1,2}})[:.](\d{{2}})(?:[:.](\d{{2}}))?(?:{BLANK}*({HALF}))?"
# "[12/03/2024, 10:15:32] Ann: Hello", "12/03/2024, 10:15 - Ann: Hello", "2024. 3. 12. 오전 10:15, Ann : Hello".
HEADER = re.compile(rf"^[{MARKS}]*(?:\[{DATE}{TIME}\]{BLANK}?|{DATE}{TIME}(?:{BLANK}[-–]{BLANK}|,{BLANK}))(.*)$")
AFTERNOON = frozenset(("p", "中", "下", "晚", "後", "후", "م"))
NAMED = re.compile(r"^([^:\n]{1,100}?) ?:(?: (.*)|)$")
# A notice may quote names, which have colons: `Ann changed the subject to "Trip: 2024"`.
QUOTATION_MARK = re.compile('["„“”«»]')
# Beyond U+200E, which marks what WhatsApp itself wrote: its placeholders on Android, in the usual languages.
ATTACHED = (
    *("file attached", "Datei angehängt", "archivo adjunto", "fichier joint", "arquivo anexado", "file allegato"),
    *("file terlampir", "dosya ekli", "файл добавлен"),
)
OMITTED = (
    *("omitted", "ausgeschlossen", "omitido", "omitida", "omis", "omesso", "oculto", "weggelaten", "pominięto"),
    *("utelämnad", "tidak disertakan", "dahil edilmedi", "Без медиафайлов", "省略", "생략"),
)
PLACEHOLDER = re.compile(
    rf"^<[^<>\n]*(?:{'|'.join(OMITTED)})[^<>\n]*>$|^.{{1,200}} \((?:{'|'.join(ATTACHED)})\)$", re.IGNORECASE
)
DELETED = re.compile(
    r"^(?:This message was deleted|You deleted this message|Diese Nachricht wurde gelöscht)\.?$"
    r"|^(?:Se eliminó este mensaje|Ce message a été supprimé|Mensagem apagada|Questo messaggio è stato eliminato)\.?$",
    re.IGNORECASE,
)
EDITED = re.compile(rf"{BLANK}?[{MARKS}]*<(?:This message was edited|Diese Nachricht wurde bearbeitet)>$")
NOTICE = re.compile(r"end-to-end encrypted|Ende-zu-Ende-verschlüsselt|cifrados de extremo a extremo", re.IGNORECASE)
FILE_NAME = re.compile(r"whatsapp", re.IGNORECASE)
# Where year, month and day are, in the two orders that can be mistaken for each other.
PLACES: Mapping[Order, tuple[int, int, int]] = {"day": (2, 1, 0), "month": (2, 0, 1)}


@dataclass
class _Line:
    """A message with the line of the file on which it begins."""

    number: int
    time: datetime
    name: str
    text: str


def begins(line: str) -> bool:
    """Whether a line begins as a message of WhatsApp does."""
    return HEADER.match(line) is not None


class Survey:
    """What the whole of a file shows before it is read: the order of its dates, and its writers in their order."""

    def __init__(self, lines: Iterable[tuple[int, str]]) -> None:
        self.names: list[str] = []
        self._orders: set[Order] = {"day", "month", "year"}
        # How often a date is earlier than the one before it, if the day or the month comes first.
        self._backwards: dict[Order, int] = {"day": 0, "month": 0}
        self._last: dict[Order, tuple[int, ...]] = {}
        self._halves = False
        for _, line in lines:
            if found := HEADER.match(line):
                self._note(found)

    @property
    def order(self) -> Order:
        """The order of the numbers of a date: what all dates allow, or else what keeps them in their order."""
        if "year" in self._orders:
            return "year"
        if len(self._orders) == 1:
            return next(iter(self._orders))
        day, month = self._backwards["day"], self._backwards["month"]
        if day != month:
            return "day" if day < month else "month"
        return "month" if self._halves else "day"

    def user(self, file_name: str, terms: Terms) -> str:
        """Who is the user: the one whose name the file has, or else the first writer."""
        people = [name for name in self.names if terms.roles.named(name) not in ("agent", "bot")]
        stem = file_name.rpartition("/")[2].removesuffix(".txt").removesuffix(".zip")
        if FILE_NAME.search(stem):
            people.sort(key=lambda name: not _names(stem, name))
        return people[0] if people else ""

    def _note(self, found: re.Match[str]) -> None:
        one, two, three, half, *_, rest = _groups(found)
        numbers = (int(one), int(two), int(three))
        self._halves = self._halves or bool(half)
        if allowed := _allowed(numbers, len(one)):
            self._orders &= allowed
        for order, place in PLACES.items():
            date = tuple(numbers[at] for at in place)
            self._backwards[order] += date < self._last.get(order, date)
            self._last[order] = date
        if (named := _named(rest)) and named[0] not in self.names:
            self.names.append(named[0])


def read(
    lines: Iterable[tuple[int, str]], survey: Survey, terms: Terms, *, name: str
) -> Iterator[tuple[int, Callable[[], Draft]]]:
    """The sessions of a file, each with the line on which it begins: silences part them. `name`: of the file.

    A message whose date does not exist has its own place among them: it is an error when it is made.

    Raises:
        InvalidInput: the file does not begin as an export does.
    """
    user = survey.user(name, terms)
    stem = name.rpartition("/")[2].rpartition(".")[0] or name
    wrong: list[tuple[int, InvalidInput]] = []
    for number, part in enumerate(parted(_timed(_messages(lines, survey.order, wrong)), terms.gap), 1):
        yield part[0].number, partial(_session, f"{stem}-{number}", part, user, terms)
    yield from ((number, partial(_raise, error)) for number, error in wrong)


def _raise(error: InvalidInput) -> Draft:
    raise error


def _names(stem: str, name: str) -> bool:
    """Whether the name of a file ends with that of a person, which has a letter or a digit."""
    plain = _plain(name)
    return bool(plain) and f" {_plain(stem)}".endswith(f" {plain}")


def _plain(name: str) -> str:
    """A name as a file name may have it, too: uploads have `_` for what is not a letter or a digit."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


def _session(session_id: str, messages: Sequence[_Line], user: str, terms: Terms) -> Draft:
    draft = Draft(session_id=session_id, user_id=user)
    for one in messages:
        draft.say(terms.roles.of(one.name, is_user=one.name == user), one.text, one.time)
    return draft


def _timed(messages: Iterable[_Line]) -> Iterator[tuple[datetime, _Line]]:
    return ((one.time, one) for one in messages)


def _messages(lines: Iterable[tuple[int, str]], order: Order, wrong: list[tuple[int, InvalidInput]]) -> Iterator[_Line]:
    """The messages that people wrote: without notices, placeholders of media, and deleted ones.

    Those with a date that does not exist are added to `wrong`.
    """
    message: _Line | None = None
    begun = False
    for number, line in lines:
        found = HEADER.match(line)
        if found:
            begun = True
            yield from _finished(message)
            try:
                message = _message(number, found, order)
            except InvalidInput as error:
                message = None
                wrong.append((number, error))
        elif message:
            message.text = f"{message.text}\n{line}"
        elif line.strip() and not begun:
            raise InvalidInput(
                "does not begin as an export of WhatsApp does, for example `[12/03/2024, 10:15:32] Ann: Hello`",
                where=f"line {number}",
            )
    yield from _finished(message)


def _finished(message: _Line | None) -> Iterator[_Line]:
    if message and (text := _written(message.text)):
        yield replace(message, text=text)


def _message(number: int, found: re.Match[str], order: Order) -> _Line | None:
    """The message of a line; None for a notice, which has no name."""
    *_, rest = _groups(found)
    time, named = _time(found, order, number), _named(rest)
    return _Line(number, time, *named) if named else None


def _named(rest: str) -> tuple[str, str] | None:
    """The writer and the text after a time; None for a notice of WhatsApp."""
    found = NAMED.match(rest)
    if not found or _is_notice(found[1], found[2] or ""):
        return None
    return found[1].strip(MARKS + " ~\u202f\u00a0"), found[2] or ""


def _is_notice(name: str, text: str) -> bool:
    """Whether a line with a colon is a notice. People may write its words, but not the mark before them."""
    has_open_quotation = len(QUOTATION_MARK.findall(name)) % 2 == 1
    return has_open_quotation or bool(NOTICE.search(name) or (text.startswith(GENERATED) and NOTICE.search(text)))


def _written(text: str) -> str:
    """What a person wrote of a message, which may be the caption below a placeholder; empty for what WhatsApp wrote."""
    first, _, caption = text.partition("\n")
    if PLACEHOLDER.match(first.strip(MARKS + " ")):
        text = caption
    elif first.startswith(GENERATED) or DELETED.match(text.strip(MARKS + " \n")):
        return ""
    return EDITED.sub("", text).strip(MARKS + " \n")


def _groups(found: re.Match[str]) -> tuple[str, ...]:
    """Year, month and day in the order of the file, half of the day, hour, minute, second, and the rest of the line."""
    one, two, three, early, hour, minute, second, late = found.groups()[:8] if found[1] else found.groups()[8:16]
    return one, two, three, early or late or "", hour, minute, second or "0", found.groups()[-1]


def _allowed(numbers: tuple[int, int, int], digits: int) -> set[Order]:
    """The orders in which three numbers can be a date."""
    if digits == 4:
        return {"year"}
    one, two, _ = numbers
    allowed: set[Order] = set()
    if one <= 31 and two <= 12:
        allowed.add("day")
    if one <= 12 and two <= 31:
        allowed.add("month")
    return allowed


def _time(found: re.Match[str], order: Order, number: int) -> datetime:
    one, two, three, half, hour, minute, second, _ = _groups(found)
    year, month, day = {
        "year": (one, two, three),
        "month": (three, one, two),
        "day": (three, two, one),
    }[order]
    try:
        return datetime(
            int(year) + (2000 if int(year) < 100 else 0), int(month), int(day),
            _hour(int(hour), half), int(minute), int(second), tzinfo=UTC,
        )  # fmt: skip
    except ValueError:
        written = found.group()[:40].strip(MARKS)
        problem = (
            f"has a time that does not exist in the order of this file's dates ({order} first): {written!a}; "
            "a line that begins with a blank continues a message"
        )
        raise InvalidInput(problem, where=f"line {number}") from None


def _hour(hour: int, half: str) -> int:
    if not half:
        return hour
    return hour % 12 + (12 if any(mark in half.lower() for mark in AFTERNOON) else 0)
