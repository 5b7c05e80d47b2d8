"""The base of every contract type, and the kinds of text that a contract accepts."""

import re
import unicodedata
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

# PostgreSQL cannot store a NUL character, and half of a surrogate pair cannot be encoded as UTF-8.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# Blanks, controls and format characters; and letters, marks and symbols that show nothing.
INVISIBLE_KINDS = frozenset(("Zs", "Zl", "Zp", "Cc", "Cf"))
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | {
    chr(code) for code in range(0xFE00, 0xFE10)
}


class Model(BaseModel):
    """Base of every contract type: immutable, and strict about names, so that a typo is an error.

    NaN and infinity are refused: they survive neither JSON nor the database.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def storable(value: Any, *, max_depth: int | None = None) -> Any:
    """Text, or JSON that contains text, with U+FFFD in place of each character that PostgreSQL cannot store.

    For what a provider sent: a reply that was paid for is not lost because of one character.

    Raises:
        ValueError: lists and objects are nested more than `max_depth` deep. None: no limit.
    """
    if isinstance(value, str):
        return UNSTORABLE.sub("\ufffd", value)
    if not isinstance(value, (dict, list)):
        return value
    if max_depth == 0:
        raise ValueError("it is nested too deeply")
    inner = None if max_depth is None else max_depth - 1
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value).items()
        return {storable(key): storable(entry, max_depth=inner) for key, entry in entries}
    return [storable(entry, max_depth=inner) for entry in cast("list[Any]", value)]


def _refuse_unstorable(text: str) -> str:
    found = UNSTORABLE.search(text)
    if found:
        raise ValueError(f"contains {found.group()!a}, which is not text that can be stored: send UTF-8 without it")
    return text


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: it is empty, or has only blanks and characters such as U+200E."""
    return all(unicodedata.category(char) in INVISIBLE_KINDS or char in INVISIBLE for char in text)


def not_blank(text: str) -> str:
    """The text.

    Raises:
        ValueError: nothing of the text can be seen.
    """
    if is_blank(text):
        raise ValueError("must not be blank")
    return text


def _refuse_slash(name: str) -> str:
    if "/" in name:
        raise ValueError("must not contain '/', which separates the parts of a job's id")
    return name


# Text from a caller is refused if it cannot be stored. Text from a provider is repaired: it is already paid for.
STORABLE = AfterValidator(_refuse_unstorable)
Text = Annotated[str, STORABLE]
Name = Annotated[str, Field(max_length=200), STORABLE, AfterValidator(not_blank)]
NameInId = Annotated[Name, AfterValidator(_refuse_slash)]
WorkspaceId = NameInId
Received = Annotated[str, BeforeValidator(storable)]
