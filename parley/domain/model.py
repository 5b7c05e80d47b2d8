"""The base of every contract type, and the kinds of text that a contract accepts."""

import re
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

# PostgreSQL cannot store a NUL character, and half of a surrogate pair cannot be encoded as UTF-8.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class Model(BaseModel):
    """Base of every contract type: immutable, and strict about names, so that a typo is an error.

    NaN and infinity are refused: they survive neither JSON nor the database.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def storable(value: Any) -> Any:
    """Text, or JSON that contains text, with U+FFFD in place of each character that PostgreSQL cannot store.

    For what a provider sent: a reply that was paid for is not lost because of one character.
    """
    if isinstance(value, str):
        return UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {storable(key): storable(entry) for key, entry in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [storable(entry) for entry in cast("list[Any]", value)]
    return value


def _refuse_unstorable(text: str) -> str:
    found = UNSTORABLE.search(text)
    if found:
        raise ValueError(f"contains {found.group()!a}, which cannot be stored: remove it")
    return text


def not_blank(text: str) -> str:
    """The text.

    Raises:
        ValueError: the text is empty or has only spaces.
    """
    if not text.strip():
        raise ValueError("is blank")
    return text


# Text from a caller is refused if it cannot be stored. Text from a provider is repaired: it is already paid for.
STORABLE = AfterValidator(_refuse_unstorable)
Text = Annotated[str, STORABLE]
Name = Annotated[str, Field(max_length=200), STORABLE, AfterValidator(not_blank)]
Received = Annotated[str, BeforeValidator(storable)]
