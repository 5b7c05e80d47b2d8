"""`parley` offers everything that a service needs to name: what its client takes, returns and raises."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

import parley
from parley.domain import errors

# What stands behind the client's `**terms`, and what an answer is made of: a service meets these by their fields.
BY_FIELD = (parley.AutoAnalyzeInput, parley.GenerateInput, parley.GenerateResult)
NOT_THE_CALLERS = {"snapshot"}
OURS = "parley"
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
    if isinstance(kind, type) and kind.__module__.partition(".")[0] == OURS:
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


def held_by(kind: type[BaseModel], known: set[type]) -> set[type]:
    """The types of a model's fields, and of theirs."""
    fields = [field for name, field in kind.model_fields.items() if name not in NOT_THE_CALLERS]
    for field in fields:
        for found in set(named_in(field.annotation)) - known:
            known.add(found)
            if issubclass(found, BaseModel):
                held_by(found, known)
    return known


SPOKEN = spoken_by(parley.Client, {parley.Client})
HELD = set[type]().union(*(held_by(kind, set[type]()) for kind in BY_FIELD))
MET = sorted(SPOKEN | HELD, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("name", parley.__all__)
def test_every_name_is_there(name: str):
    assert inspect.isclass(getattr(parley, name))


@pytest.mark.parametrize("kind", MET, ids=lambda kind: kind.__name__)
def test_every_type_that_a_service_meets_is_offered(kind: type):
    assert getattr(parley, kind.__name__, None) is kind
    assert kind.__name__ in parley.__all__


def test_every_model_behind_terms_is_looked_at():
    """A signature tells nothing of `**terms`; the documentation names the model whose fields they are."""
    taking_terms = [
        function
        for kind in SPOKEN
        for function in public_functions(kind)
        if any(given.kind is given.VAR_KEYWORD for given in inspect.signature(function).parameters.values())
    ]
    documented = {name for one in taking_terms for name in re.findall(r"fields of `(\w+)`", inspect.getdoc(one) or "")}
    assert documented == {kind.__name__ for kind in BY_FIELD if kind is not parley.GenerateResult}


def test_every_error_that_the_client_says_it_raises_is_offered():
    documents = "".join(inspect.getdoc(function) or "" for kind in SPOKEN for function in public_functions(kind))
    named = {name for name in RAISES.findall(documents) if hasattr(errors, name)}
    assert "NotFound" in named
    assert named <= {*parley.__all__}
