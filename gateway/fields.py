"""Read a vendor's JSON and ignore nothing: each field is taken, asks for nothing, or is refused by name."""

from collections.abc import Collection, Iterator
from typing import Any, TypeVar, cast

from fastapi import Request
from pydantic import ValidationError

from gateway.uploads import json_of
from parley.client.reading import first_problem
from parley.domain.errors import InvalidInput
from parley.domain.requests import Message

T = TypeVar("T")
NAMES: dict[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


class Fields:
    """The fields of an object. A field that is null is left out.

    path: the object's place in the body, for errors; empty for the body itself.
    """

    def __init__(self, given: object, path: str = "") -> None:
        if not isinstance(given, dict):
            raise InvalidInput("must be an object", field=path or "body")
        self.path = path
        self._left = {name: value for name, value in cast("dict[str, Any]", given).items() if value is not None}

    def take(self, name: str, kind: type[T]) -> T | None:
        """A field's value, None where it is left out.

        Raises:
            InvalidInput: it is of another type.
        """
        value = self._left.pop(name, None)
        if value is None or _is(value, kind):
            return value
        raise InvalidInput(f"must be {NAMES[kind]}", field=self.place(name))

    def need(self, name: str, kind: type[T]) -> T:
        """A field's value.

        Raises:
            InvalidInput: it is left out, or of another type.
        """
        value = self.take(name, kind)
        if value is None:
            raise InvalidInput(f"is missing: it must be {NAMES[kind]}", field=self.place(name))
        return value

    def has(self, name: str) -> bool:
        """Whether a field is given."""
        return name in self._left

    def is_text(self, name: str) -> bool:
        """Whether a field is given as a text."""
        return isinstance(self._left.get(name), str)

    def one_of(self, name: str, known: Collection[str]) -> str:
        """A text that must be one of a few.

        Raises:
            InvalidInput: it is another one, or left out.
        """
        value = self.need(name, str)
        if value not in known:
            raise InvalidInput(f"must be {' or '.join(known)} here", field=self.place(name))
        return value

    def inner(self, name: str) -> "Fields | None":
        """An object in a field; None where it is left out."""
        value = self.take(name, dict)
        return None if value is None else Fields(value, self.place(name))

    def each(self, name: str) -> Iterator["Fields"]:
        """The objects of a list; none where it is left out."""
        for number, one in enumerate(self.take(name, list) or ()):
            yield Fields(one, f"{self.place(name)}.{number}")

    def texts(self, name: str) -> list[str]:
        """A text, or a list of texts."""
        value = [self.take(name, str)] if self.is_text(name) else self.take(name, list) or []
        if not all(isinstance(one, str) for one in value):
            raise InvalidInput("must be a text, or a list of texts", field=self.place(name))
        return cast("list[str]", value)

    def allow(self, name: str, *neutral: object) -> None:
        """Accept a field that Parley does not have, with values that ask for nothing.

        Raises:
            InvalidInput: it has another value.
        """
        value = self._left.pop(name, None)
        if value is not None and not any(value == one and type(value) is type(one) for one in neutral):
            raise InvalidInput("is not supported with this value: leave it out", field=self.place(name))

    def drop(self, name: str) -> bool:
        """Accept a field whatever it asks for; returns whether it is given. The response names it."""
        return self._left.pop(name, None) is not None

    def end(self, **hints: str) -> None:
        """Refuse what is left. `hints`: what to do in place of a field.

        Raises:
            InvalidInput: a field is left.
        """
        for name in self._left:
            raise InvalidInput(hints.get(name, "is not supported: leave it out"), field=self.place(name))

    def place(self, name: str) -> str:
        """A field's place in the body."""
        return f"{self.path}.{name}" if self.path else name


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def message(place: str, **fields: Any) -> Message:
    """A message of a chat. `place`: that of the vendor's message, for errors.

    Raises:
        InvalidInput: it is not valid.
    """
    try:
        return Message(**fields)
    except ValidationError as error:
        found = first_problem(error)
        raise InvalidInput(found.problem, field=f"{place}.{found.field}".rstrip(".")) from None


async def fields_of(request: Request) -> Fields:
    """The fields of a request's body.

    Raises:
        InvalidInput: it is not a JSON object.
    """
    try:
        text = (await request.body()).decode()
    except UnicodeDecodeError:
        raise InvalidInput("is not UTF-8", where="body") from None
    return Fields(json_of(text, where="body"))
