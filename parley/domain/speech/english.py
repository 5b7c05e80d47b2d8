"""How numbers, money, dates, times, links and sums are said in English.

A rule changes what a voice reads wrong. What every voice reads right, such as 1,234 or 3.5, stays in digits.
"""

import re
from collections.abc import Callable
from datetime import date

DAYS = {
    "Mon": "Monday",
    "Tue": "Tuesday",
    "Tues": "Tuesday",
    "Wed": "Wednesday",
    "Thu": "Thursday",
    "Thur": "Thursday",
    "Thurs": "Thursday",
    "Fri": "Friday",
    "Sat": "Saturday",
    "Sun": "Sunday",
}
MONTHS = (
    "January February March April May June July August September October November December".split()  # noqa: SIM905
)
# Unit and hundredth, each for one and for several.
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"),
}
CODES = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥"}
SCALES = {
    "k": "thousand",
    "m": "million",
    "mn": "million",
    "bn": "billion",
    "b": "billion",
    "thousand": "thousand",
    "million": "million",
    "billion": "billion",
    "trillion": "trillion",
}
# Words that belong to a number before them.
SUFFIXES = frozenset({"am", "pm", "a", "p", *SCALES, *(code.lower() for code in CODES)})

AMOUNT = r"[0-9][0-9,]*(?:\.[0-9]+)?"
SCALE = r"(?:[ ]?(?P<scale>thousand|million|billion|trillion|mn|bn|[kKmMB])(?![A-Za-z]))?"
ADDRESS = re.compile(r"(?:https?://|www\.)[^\s<>\"]*[^\s<>\".,;:!?)\]}'»]", re.IGNORECASE)
SIMPLE_PATH = re.compile(r"/[A-Za-z-]{1,20}")
MAIL = re.compile(r"(?<=\w)(?:\.[\w+-]+)*@[\w-]+(?:\.[\w-]+)+|(?<![\w@])[\w+-]+(?:\.[\w+-]+)*@[\w-]+(?:\.[\w-]+)+")
DOMAIN = re.compile(
    r"(?<=[A-Za-z])(?:\.[A-Za-z0-9-]+)*\.(?:com|org|net|edu|gov|io|dev|ai|app|co|info|uk|de|eu)\b(?![\w@])"
)
ISO_DATE = re.compile(r"(?<![\d-])([0-9]{4})-([0-9]{2})-([0-9]{2})(?:T(?=[0-9]{2}:)|(?![\d-]))")
SLASHED_DATE = re.compile(r"(?<![\d/])([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})(?![\d/])")
PHONE = re.compile(
    r"(?<![\w.,])(?:"
    r"\+[0-9]{1,3}(?:[ .-]?\(?[0-9]{1,5}\)?){1,6}"
    r"|(?:1[ .-])?\([0-9]{3}\)[ ]?[0-9]{3}[ .-][0-9]{4}"
    r"|(?:1[ .-])?[0-9]{3}[ .-][0-9]{3}[ .-][0-9]{4}"
    r"|[0-9]{3}-[0-9]{4}"
    r")(?![\w-]|[.,][0-9])"
)
LONG_NUMBER = re.compile(r"(?<![\w.,])(?:[0-9]{7,}|0[0-9]{2,6})(?![\w]|[.,:][0-9])")
PER = r"(?P<per>/(?=[A-Za-z]))?"
MONEY_RANGE = re.compile(rf"([$€£¥])[ ]?({AMOUNT})[ ]?[–—-][ ]?\1?({AMOUNT}){SCALE}(?![\w]|[.,][0-9]){PER}")
MONEY = re.compile(rf"(?P<minus>(?<![\w)])[-−])?(?P<sign>[$€£¥])[ ]?(?P<amount>{AMOUNT}){SCALE}{PER}")
MONEY_AFTER = re.compile(rf"(?<![\w.,])(?P<amount>{AMOUNT}){SCALE}[ ]?(?P<sign>USD\b|EUR\b|GBP\b|JPY\b|[€£]){PER}")
HALF = r"[ ]?(?P<half>[aApP])(?:\.[mM]\.|[mM]\b)"
TIME = re.compile(
    rf"(?<![\w:.,])([0-9]{{1,2}}):([0-9]{{2}})(?:{HALF}|(?::[0-9]{{2}}(?:\.[0-9]+)?)?(?P<utc>Z))?(?![\w:]|[.,][0-9])"
)
HOUR = re.compile(rf"(?<![\w:.,])([0-9]{{1,2}}){HALF}")
DAY = re.compile(r"\b(Mon|Tues?|Wed|Thu(?:rs?)?|Fri)\b(?!\w)|\b(Sat|Sun)\b(?=\s?[:–—/-])|(?<=[–—/-])(Sat|Sun)\b")
TO = " to "


def is_english(language: str) -> bool:
    """Whether a BCP 47 code is one of English."""
    return language.lower().replace("_", "-").partition("-")[0] == "en"


def said_in_english(text: str, *, day_first: bool = False) -> str:
    """A piece of text as it is said. `day_first`: how a date such as 3/4/2026 is read."""
    text = ADDRESS.sub(lambda found: _dotted(host_of(found.group())), text)
    text = MAIL.sub(lambda found: _dotted(found.group()).replace("@", " at "), text)
    text = DOMAIN.sub(lambda found: _dotted(found.group()), text)
    text = ISO_DATE.sub(_iso_date, text)
    text = SLASHED_DATE.sub(lambda found: _slashed_date(found, day_first), text)
    text = said_digits(text)
    text = MONEY_RANGE.sub(_money_range, text)
    text = MONEY.sub(_money, text)
    text = MONEY_AFTER.sub(_money, text)
    text = DAY.sub(lambda found: DAYS[found[1] or found[2] or found[3]], text)
    for pattern, said in SYMBOLS:
        text = pattern.sub(said, text)
    text = TIME.sub(_time, text)
    return HOUR.sub(lambda found: f"{int(found[1])} {found['half'].upper()}M", text)


def said_digits(text: str) -> str:
    """Telephone numbers and long numbers digit by digit, in any language."""
    text = PHONE.sub(_phone, text)
    return LONG_NUMBER.sub(lambda found: " ".join(found.group()), text)


def host_of(address: str) -> str:
    """A link as it is said: its host, and a path of one plain word. The rest is not for the ear."""
    _, _, rest = address.rpartition("://")
    host, slash, path = rest.partition("/")
    host = re.split(r"[?#:]", host.rpartition("@")[2].removeprefix("www."))[0]
    plain = SIMPLE_PATH.fullmatch(slash + path.rstrip("/"))
    return host + (plain.group() if plain else "")


def _dotted(name: str) -> str:
    return re.sub(r"\.(?=\w)", " dot ", name).replace("/", " slash ")


def _said_date(year: str, month: str, day: str) -> str:
    try:
        known = date(int(year), int(month), int(day))
    except ValueError:
        return ""
    return f"{MONTHS[known.month - 1]} {known.day}, {known.year}"


def _iso_date(found: re.Match[str]) -> str:
    said = _said_date(found[1], found[2], found[3])
    at = " at " if found.group().endswith("T") else ""
    return said + at if said else found.group()


def _slashed_date(found: re.Match[str], day_first: bool) -> str:
    first, second, year = found.groups()
    month, day = (second, first) if day_first or int(first) > 12 else (first, second)
    return _said_date(year, month, day) or found.group()


def _phone(found: re.Match[str]) -> str:
    number = found.group()
    groups = re.findall(r"[0-9]+", number)
    if sum(map(len, groups)) < 7:
        return number
    return ("+" if number.startswith("+") else "") + ", ".join(" ".join(group) for group in groups)


def _money_range(found: re.Match[str]) -> str:
    sign, low, high = found[1], found[2], found[3]
    return f"{low} to {_amount(sign, high, found['scale'])}{_per(found)}"


def _money(found: re.Match[str]) -> str:
    known = found.groupdict()
    sign = CODES.get(known["sign"], known["sign"])
    minus = "minus " if known.get("minus") else ""
    return f"{minus}{_amount(sign, known['amount'], known['scale'])}{_per(found)}"


def _per(found: re.Match[str]) -> str:
    return " per " if found["per"] else ""


def _amount(sign: str, amount: str, scale: str | None) -> str:
    """An amount of money. Hundredths are said where there are two digits of them."""
    unit, units, hundredth, hundredths = CURRENCIES[sign]
    if scale:
        return f"{amount} {SCALES[scale.lower()]} {units}"
    trailing = "," if amount.endswith(",") else ""
    whole, point, part = amount.rstrip(",").partition(".")
    if point and len(part) != 2:
        return f"{whole}.{part} {units}{trailing}"
    said = f"{whole} {unit if whole == '1' else units}"
    if not point or part == "00":
        return said + trailing
    cents = f"{int(part)} {hundredth if int(part) == 1 else hundredths}"
    return (cents if whole.strip("0") == "" else f"{said} and {cents}") + trailing


def _time(found: re.Match[str]) -> str:
    """A time. One of 24 hours is said with AM or PM; a time that may be either stays."""
    hour, minute, half, zone = int(found[1]), found[2], found["half"], " UTC" if found["utc"] else ""
    if hour > 24 or int(minute) > 59:
        return found.group()
    if half:
        return f"{hour}{_minutes(minute)} {half.upper()}M"
    if not (found[1].startswith("0") or hour > 12 or zone):
        return found.group()
    return f"{(hour - 1) % 12 + 1}{_minutes(minute)} {'AM' if hour % 24 < 12 else 'PM'}{zone}"


def _minutes(minute: str) -> str:
    return "" if minute == "00" else f":{minute}"


def _rule(pattern: str, said: str | Callable[[re.Match[str]], str]) -> tuple[re.Pattern[str], str]:
    return re.compile(pattern), said  # pyright: ignore[reportReturnType]


# In their order. What follows a number may begin with a currency's name by now.
SYMBOLS = (
    _rule(r"(?<=[0-9APap][mM])[ ]?[–—][ ]?(?=[0-9])|(?<=[0-9%])[ ]?–[ ]?(?=[0-9])", TO),
    _rule(
        r"(?<![\w.,:/-])([0-9][0-9.,:]*(?:[ ]?[aApP][mM])?%?)-([0-9][0-9.,:]*(?:[aApP][mM]\b)?%?)(?![\w-])", r"\1 to \2"
    ),
    _rule(r"(?<=day)[ ]?[–—-][ ]?(?=[A-Z][a-z]+day\b)", TO),
    _rule(r"-+>|=+>", ","),
    _rule(r"[ ]?×[ ]?", " times "),
    _rule(r"[ ]?÷[ ]?", " divided by "),
    _rule(r"(?<=[0-9])[ ]/[ ](?=[0-9])", " divided by "),
    _rule(r"[ ]?≤[ ]?|(?<=[\w)])[ ]?<=[ ]?", " at most "),
    _rule(r"[ ]?≥[ ]?|(?<=[\w)])[ ]?>=[ ]?", " at least "),
    _rule(r"[ ]?≠[ ]?|[ ]?!=[ ]?", " is not "),
    _rule(r"(?<=[\w)%])[ ]?={1,2}[ ]?(?=[\w(+−-]|$)|(?<=\s)=(?=\s|$)", " equals "),
    _rule(r"[ ]<[ ]", " is less than "),
    _rule(r"[ ]>[ ]", " is more than "),
    _rule(r"<(?=[0-9])", "less than "),
    _rule(r">(?=[0-9])", "more than "),
    _rule(r"(?<=[0-9)%])[ ]?\+[ ]?(?=[0-9(])", " plus "),
    _rule(r"(?<=[\s(,])\+(?=[0-9])|^\+(?=[0-9])", "plus "),
    _rule(r"(?<=[0-9)])[ ][-−][ ](?=[0-9(])", " minus "),
    _rule(r"(?<![\w)\].,-])[-−](?=[0-9])", "minus "),
    _rule(r"[ ]?±[ ]?", " plus or minus "),
    _rule(r"(?<=[\w)])[ ]?\^[ ]?(?=[0-9(])", " to the power of "),
    _rule(r"[~≈][ ]?(?=[0-9])", "about "),
    _rule(r"(?<!\w)#(?=[0-9])", "number "),
    _rule(r"(?<=[0-9])[ ]?%", " percent"),
    _rule(r"(?<=[0-9])[ ]?°[ ]?C\b", " degrees Celsius"),
    _rule(r"(?<=[0-9])[ ]?°[ ]?F\b", " degrees Fahrenheit"),
    _rule(r"(?<=[0-9])[ ]?°", " degrees"),
    _rule(r"(?<=\w)&(?=\w)", " and "),
    _rule(r"(?<!\S)&(?!\S)", "and"),
)
