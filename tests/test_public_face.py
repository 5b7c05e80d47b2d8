"""`parley` offers everything that a service needs to name: what its client takes, returns and raises."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

import parley
from domain import errors

OURS = ("domain", "starter", "storage")
RAISES = re.compile(r"^\s+([A-Z]\w+): ", re.MULTILINE)


def public_functions(kind: type) -> Iterator[Callable[..., Any]]:
    for name, member in inspect.getmembers(kind):
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(function):
            yield function


def named_in(hint: Any) -> Iterator[type]:
    """The types that a hint is made of, those of its parameters included."""
    if get_origin(hint) is Literal:
        return
    generic = getattr(hint, "__pydantic_generic_metadata__", {})
    for part in (*get_args(hint), *generic.get("args", ())):
        yield from named_in(part)
    kind = generic.get("origin") or get_origin(hint) or hint
    if isinstance(kind, type) and kind.__module__.partition(".")[0] in OURS:
        yield kind


def spoken_by(kind: type, known: set[type]) -> set[type]:
    """The types in the signatures of a class, and of the handles and clients that it gives out."""
    for function in public_functions(kind):
        for hint in get_type_hints(function).values():
            for found in set(named_in(hint)) - known:
                known.add(found)
                if not issubclass(found, BaseModel):
                    spoken_by(found, known)
    return known


SPOKEN = spoken_by(parley.Client, {parley.Client})


@pytest.mark.parametrize("name", parley.__all__)
def test_every_name_is_there(name: str):
    assert inspect.isclass(getattr(parley, name))


@pytest.mark.parametrize("kind", sorted(SPOKEN, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_every_type_in_the_clients_signatures_is_offered(kind: type):
    assert getattr(parley, kind.__name__, None) is kind
    assert kind.__name__ in parley.__all__


def test_every_error_that_the_client_says_it_raises_is_offered():
    documents = "".join(inspect.getdoc(function) or "" for kind in SPOKEN for function in public_functions(kind))
    named = {name for name in RAISES.findall(documents) if hasattr(errors, name)}
    assert "NotFound" in named
    assert named <= {*parley.__all__}
