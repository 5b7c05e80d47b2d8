"""Replace personal data in a request before a provider sees it.

A rule finds what has an exact form: e-mail addresses, phone numbers in their usual writings, and card numbers with a
right check digit. Names, addresses and numbers in words are not found. Parley's own tables keep the original text.
"""

import json
import re
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum

from parley.domain.requests import ChatRequest, EmbeddingRequest, Message, Request, TextPart, ToolCall


class Personal(StrEnum):
    """A kind of personal data that can be masked."""

    EMAIL = "email"
    PHONE = "phone"
    CARD = "card"


EVERY_KIND = tuple(Personal)
# The longest local part, and the longest label of a domain: RFC 5321, 4.5.3.1, and RFC 1035, 2.3.4.
EMAIL = re.compile(r"(?<![\w.+-])[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[\w-]{1,63}\.){1,8}[\w-]{2,63}")
GAPS = " \u00a0\u2011\u2013-"
# Digits in which a card may be: 13 or more, which may be grouped. Four digits before a comma are not a group of a
# larger number.
DIGITS = re.compile(
    rf"(?:(?<![A-Za-z\d.,+-])|(?<=\d{{4}},))(?:\d{{4}}(?:\.\d{{4}}){{3}}(?!\.?\d)|\d(?:[{GAPS}]?\d){{12,}}+)"
)
AFTER_DIGITS = re.compile(r"(?![A-Za-z]|-[A-Za-z]|\.\d)")
GROUP = re.compile(r"\d+")
# How issuers group the digits of a card, or not: only such a part of a longer run of digits is one.
GROUPINGS = {(4, 4, 4, 4), (4, 4, 4, 4, 1), (4, 4, 4, 4, 2), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4)}
LONGEST_GROUPING = max(map(len, GROUPINGS))
LEAST_DIGITS, MOST_DIGITS = 13, 19  # ISO/IEC 7812-1
# The first digits of the large networks. Years of this century have others.
ISSUERS = re.compile(r"[3-6]|2[2-7]")
SEPARATOR = r"[ .\u00a0\u2011-]"
PHONE = re.compile(
    rf"""(?:
      (?<![A-Za-z\d.+-])(?:
          (?:\+|00)[1-9](?:(?:\(0\)|{SEPARATOR}|[/()]){{0,3}}\d){{6,14}}  # international, E.164: at most 15 digits
        | (?:1{SEPARATOR})?\(\d{{2,5}}\){SEPARATOR}?\d{{2,4}}(?:{SEPARATOR}?\d{{2,4}}){{1,3}}  # area code
        | (?:1{SEPARATOR})?[2-9]\d\d(?:{SEPARATOR})\d{{3}}(?:{SEPARATOR})\d{{4}}  # North America, grouped
      )
      # National, with its trunk 0. After a comma or a slash it may be a fraction or a part of a path.
      | (?:(?<![A-Za-z\d.,/+-])|(?<=\d{{4}}[,/])|(?<=[A-Za-z],))0[1-9](?:[ /\u00a0-]?\d){{7,10}}
    )(?:[ ]?(?:x|ext\.?)[ ]?\d{{1,6}})?(?![A-Za-z\d]|-[A-Za-z\d]|\.\d)""",
    re.VERBOSE,
)
# A string or a number of JSON.
SCALAR = re.compile(r'"(?:[^"\\]|\\.)*+"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?')


def mask(text: str, kinds: Collection[Personal]) -> str:
    """The text with each found piece of these kinds as `[email]`, `[phone]` or `[card]`."""
    for kind, rule in _RULES.items():
        text = rule(text) if kind in kinds else text
    return text


def masked(request: Request, kinds: Collection[Personal]) -> Request:
    """The request as a provider may see it.

    The text of messages, the arguments of tool calls and the texts to embed are masked. Sound and images are not, and
    neither is a text to speak: it is part of an answer that was made from masked text.
    """
    if not kinds:
        return request
    if isinstance(request, ChatRequest):
        messages = tuple(_message(message, kinds) for message in request.messages)
        return request.model_copy(update={"messages": messages})
    if isinstance(request, EmbeddingRequest):
        inputs = tuple(mask(one, kinds) if isinstance(one, str) else one for one in request.inputs)
        return request.model_copy(update={"inputs": inputs})
    return request


def _message(message: Message, kinds: Collection[Personal]) -> Message:
    content = message.content
    if isinstance(content, str):
        content = _text(content, kinds)
    elif content is not None:
        content = tuple(
            part.model_copy(update={"text": _text(part.text, kinds)}) if isinstance(part, TextPart) else part
            for part in content
        )
    calls = tuple(_call(call, kinds) for call in message.tool_calls)
    return message.model_copy(update={"content": content, "tool_calls": calls})


def _call(call: ToolCall, kinds: Collection[Personal]) -> ToolCall:
    """The call with masked arguments, which stay JSON: vendors refuse what is not."""
    return call.model_copy(update={"arguments": _text(call.arguments, kinds)})


def _text(text: str, kinds: Collection[Personal]) -> str:
    """A masked text. JSON stays JSON, and what its strings say is masked: an escape such as \\n is not a letter."""
    return SCALAR.sub(lambda found: _scalar(found[0], kinds), text) if _is_json(text) else mask(text, kinds)


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _scalar(token: str, kinds: Collection[Personal]) -> str:
    value = str(json.loads(token))
    hidden = mask(value, kinds)
    return token if hidden == value else json.dumps(hidden, ensure_ascii=False)


def _emails(text: str) -> str:
    return EMAIL.sub("[email]", text)


def _phones(text: str) -> str:
    return PHONE.sub("[phone]", text)


def _cards(text: str) -> str:
    return DIGITS.sub(_cards_of_run, text)


def _cards_of_run(found: re.Match[str]) -> str:
    """A run of digits without its cards: parts that are grouped as issuers do, and what is left if it is a card."""
    if not AFTER_DIGITS.match(found.string, found.end()):
        return found[0]
    run, sent, begin = found[0], list[str](), 0
    groups = [group.span() for group in GROUP.finditer(run)]
    for place, (start, _) in enumerate(groups):
        end = _card_end(run, groups[place : place + LONGEST_GROUPING]) if start >= begin else 0
        if end:
            sent += (_rest(run[begin:start]), "[card]")
            begin = end
    return "".join((*sent, _rest(run[begin:])))


def _card_end(run: str, groups: Sequence[tuple[int, int]]) -> int:
    """Where the longest card ends that begins with the first of these groups of digits; 0 if none does."""
    begin = groups[0][0]
    if not ISSUERS.match(run, begin):
        return 0
    sizes = [end - start for start, end in groups]
    for count in range(len(groups), 0, -1):
        end = groups[count - 1][1]
        if (count == 1 or tuple(sizes[:count]) in GROUPINGS) and _is_card(run[begin:end]):
            return end
    return 0


def _rest(digits: str) -> str:
    """What is left of a run: a card too if all of it is one."""
    return digits.replace(digits.strip(GAPS), "[card]") if _is_card(digits) else digits


def _is_card(number: str) -> bool:
    """Whether it has the digits of a card, and the check digit is right: Luhn's formula, ISO/IEC 7812-1, annex B."""
    digits = [int(digit) for digit in number if digit.isdigit()]
    if not LEAST_DIGITS <= len(digits) <= MOST_DIGITS:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


# A card's digits could be read as a phone number: cards come first.
_RULES: dict[Personal, Callable[[str], str]] = {
    Personal.EMAIL: _emails,
    Personal.CARD: _cards,
    Personal.PHONE: _phones,
}
