"""Replace personal data in a request before a provider sees it.

A rule finds what has an exact form: e-mail addresses, phone numbers in their usual writings, and card numbers with a
right check digit. Names, addresses and numbers in words are not found. Parley's own tables keep the original text.
"""

import json
import re
from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Any, cast

from parley.domain.requests import ChatRequest, EmbeddingRequest, Message, Request, TextPart, ToolCall


class Personal(StrEnum):
    """A kind of personal data that can be masked."""

    EMAIL = "email"
    PHONE = "phone"
    CARD = "card"


EVERY_KIND = tuple(Personal)
# The longest local part, and the longest label of a domain: RFC 5321, 4.5.3.1, and RFC 1035, 2.3.4.
EMAIL = re.compile(r"(?<![\w.+-])[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[\w-]{1,63}\.){1,8}[\w-]{2,63}")
# 13 to 19 digits (ISO/IEC 7812-1), which may be grouped.
CARD = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
SEPARATOR = r"[ .\u00a0\u2011-]"
PHONE = re.compile(
    rf"""(?<![\w.,/+-])(?:
        (?:\+|00)[1-9](?:(?:\(0\)|{SEPARATOR}|[/()]){{0,3}}\d){{6,14}}  # international, E.164: at most 15 digits
      | (?:1{SEPARATOR})?\(\d{{2,5}}\){SEPARATOR}?\d{{2,4}}(?:{SEPARATOR}?\d{{2,4}}){{1,3}}  # area code
      | (?:1{SEPARATOR})?[2-9]\d\d(?:{SEPARATOR})\d{{3}}(?:{SEPARATOR})\d{{4}}  # North America, grouped
      | 0[1-9](?:[ /\u00a0-]?\d){{7,10}}  # national, with its trunk 0
    )(?![\w-]|[.,]\d)""",
    re.VERBOSE,
)


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
        content = mask(content, kinds)
    elif content is not None:
        content = tuple(
            part.model_copy(update={"text": mask(part.text, kinds)}) if isinstance(part, TextPart) else part
            for part in content
        )
    calls = tuple(_call(call, kinds) for call in message.tool_calls)
    return message.model_copy(update={"content": content, "tool_calls": calls})


def _call(call: ToolCall, kinds: Collection[Personal]) -> ToolCall:
    """The call with masked arguments, which stay JSON: vendors refuse what is not."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.model_copy(update={"arguments": mask(call.arguments, kinds)})
    hidden = _value(arguments, kinds)
    return call if hidden == arguments else call.model_copy(update={"arguments": json.dumps(hidden)})


def _value(value: Any, kinds: Collection[Personal]) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {mask(name, kinds): _value(inner, kinds) for name, inner in fields.items()}
    if isinstance(value, list):
        return [_value(inner, kinds) for inner in cast("list[Any]", value)]
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value
    text = str(value)
    hidden = mask(text, kinds)
    return value if hidden == text else hidden


def _emails(text: str) -> str:
    return EMAIL.sub("[email]", text)


def _phones(text: str) -> str:
    return PHONE.sub("[phone]", text)


def _cards(text: str) -> str:
    return CARD.sub(lambda found: "[card]" if _is_card(found[0]) else found[0], text)


def _is_card(number: str) -> bool:
    """Whether the check digit is right: Luhn's formula, ISO/IEC 7812-1, annex B."""
    digits = [int(digit) for digit in number if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


# A card's digits could be read as a phone number: cards come first.
_RULES: dict[Personal, Callable[[str], str]] = {
    Personal.EMAIL: _emails,
    Personal.CARD: _cards,
    Personal.PHONE: _phones,
}
