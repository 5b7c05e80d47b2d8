"""WhatsApp: the text file of an exported chat, from iOS and Android, in the date format of any region."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from parley.domain.chat_formats.drafts import Draft, Terms, parted
from parley.domain.errors import InvalidInput

Order = Literal["day", "month", "year"]
# Marks of the writing direction and of joined emoji at the beginning of a line or a name.
MARKS = "\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069\ufeff"
GENERATED = "\u200e"
BLANK = "[ \u00a0\u202f\u2009]"
HALF = rf"[AaPp]\.?{BLANK}?[Mm]\.?|上午|下午|午前|午後|오전|오후|ص|م"
BETWEEN = "[\u200e\u200f]*(?:[./-]|년|월)[\u200e\u200f]*"
DATE = (
    rf"(\d{{1,4}}){BETWEEN}{BLANK}?(\d{{1,2}}){BETWEEN}{BLANK}?(\d{{1,4}})일?\.?[,،]?{BLANK}*(?:(?:klo|kl\.?){BLANK})?"
)
TIME = rf"({HALF})?{BLANK}?(\d{{1,2}})[:.](\d{{2}})(?:[:.](\d{{2}}))?(?:{BLANK}*({HALF}))?"
# "[12/03/2024, 10:15:32] Ann: Hello", "12/03/2024, 10:15 - Ann: Hello", "2024. 3. 12. 오전 10:15, Ann : Hello".
HEADER = re.compile(rf"^[{MARKS}]*(?:\[{DATE}{TIME}\]{BLANK}?|{DATE}{TIME}(?:{BLANK}[-–]{BLANK}|,{BLANK}))(.*)$")
AFTERNOON = frozenset(("p", "下", "後", "후", "م"))
NAMED = re.compile(r"^([^:\n]{1,100}?) ?:(?: (.*)|)$")
# Beyond U+200E, which marks what WhatsApp itself wrote: its placeholders on Android, in the usual languages.
PLACEHOLDER = re.compile(
    r"^<[^<>\n]*(?:omitted|ausgeschlossen|omitido|omitida|omis|omesso|oculto|weggelaten|pominięto|utelämnad|省略|생략)[^<>\n]*>$"
    r"|^.{1,200} \((?:file attached|Datei angehängt|archivo adjunto|fichier joint|arquivo anexado|file allegato)\)$"
    r"|^(?:This message was deleted|You deleted this message|Diese Nachricht wurde gelöscht)\.?$"
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
            people.sort(key=lambda name: not _plain(stem).endswith(_plain(name)))
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


def read(lines: Iterable[tuple[int, str]], survey: Survey, terms: Terms, *, name: str) -> Iterator[tuple[int, Draft]]:
    """The sessions of a file with the lines on which they begin: silences part them. `name`: of the file.

    Raises:
        InvalidInput: the file does not begin as an export does, or a date does not exist.
    """
    user = survey.user(name, terms)
    stem = name.rpartition("/")[2].rpartition(".")[0] or name
    for number, part in enumerate(parted(_timed(_messages(lines, survey.order)), terms.gap), 1):
        yield part[0].number, _session(f"{stem}-{number}", part, user, terms)


def _plain(name: str) -> str:
    """A name as a file name may have it, too: uploads have `_` for what is not a letter or a digit."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def _session(session_id: str, messages: Sequence[_Line], user: str, terms: Terms) -> Draft:
    draft = Draft(session_id=session_id, user_id=user)
    for one in messages:
        draft.say(terms.roles.of(one.name, is_user=one.name == user), one.text, one.time)
    return draft


def _timed(messages: Iterable[_Line]) -> Iterator[tuple[datetime, _Line]]:
    return ((one.time, one) for one in messages)


def _messages(lines: Iterable[tuple[int, str]], order: Order) -> Iterator[_Line]:
    """The messages that people wrote: without notices, placeholders of media, and deleted ones."""
    message: _Line | None = None
    begun = False
    for number, line in lines:
        found = HEADER.match(line)
        if found:
            begun = True
            if message and _is_written(message.text):
                yield _finished(message)
            message = _message(number, found, order)
        elif message:
            message.text = f"{message.text}\n{line}"
        elif line.strip() and not begun:
            raise InvalidInput(
                "does not begin as an export of WhatsApp does, for example `[12/03/2024, 10:15:32] Ann: Hello`",
                where=f"line {number}",
            )
    if message and _is_written(message.text):
        yield _finished(message)


def _message(number: int, found: re.Match[str], order: Order) -> _Line | None:
    """The message of a line; None for a notice, which has no name."""
    *_, rest = _groups(found)
    time, named = _time(found, order, number), _named(rest)
    return _Line(number, time, *named) if named else None


def _named(rest: str) -> tuple[str, str] | None:
    """The writer and the text after a time; None for a notice of WhatsApp."""
    found = NAMED.match(rest)
    if not found or NOTICE.search(rest):
        return None
    return found[1].strip(MARKS + " ~\u202f\u00a0"), found[2] or ""


def _is_written(text: str) -> bool:
    return not text.startswith(GENERATED) and not PLACEHOLDER.match(text.strip(MARKS + " \n"))


def _finished(message: _Line) -> _Line:
    message.text = EDITED.sub("", message.text).strip(MARKS + " \n")
    return message


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
        problem = f"has a time that does not exist in the order of this file's dates ({order} first): {written!a}"
        raise InvalidInput(problem, where=f"line {number}") from None


def _hour(hour: int, half: str) -> int:
    if not half:
        return hour
    return hour % 12 + (12 if any(mark in half.lower() for mark in AFTERNOON) else 0)
