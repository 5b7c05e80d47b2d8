"""`parley` offers everything that a service needs to name: what its client takes, returns and raises."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from pydantic import BaseModel

import parley
from parley.domain import errors

# A service reads and sets these by their fields.
BY_FIELD = (parley.AutoAnalyzeInput, parley.GenerateInput, parley.GenerateResult)
NOT_THE_CALLERS = {"carried"}
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


SPOKEN = spoken_by(parley.Backend, {parley.Backend})
HELD = set[type]().union(*(held_by(kind, set[type]()) for kind in BY_FIELD))
MET = sorted(SPOKEN | HELD, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("name", parley.__all__)
def test_every_public_name_exists(name: str):
    assert getattr(parley, name) is not None


@pytest.mark.parametrize("kind", MET, ids=lambda kind: kind.__name__)
def test_every_type_that_a_service_meets_is_offered(kind: type):
    assert getattr(parley, kind.__name__, None) is kind
    assert kind.__name__ in parley.__all__


def test_no_public_function_takes_untyped_options():
    """`**options` is a TypedDict that is public as well: its keys and types are part of the API."""
    for kind in (kind for kind in SPOKEN if not issubclass(kind, BaseModel)):
        for function in public_functions(kind):
            for name, given in inspect.signature(function).parameters.items():
                if given.kind is not given.VAR_KEYWORD:
                    continue
                options = get_args(get_type_hints(function)[name])[0]
                assert is_typeddict(options)
                assert options.__name__ in parley.__all__


@pytest.mark.parametrize(
    ("options", "model"),
    [(parley.GenerateOptions, parley.GenerateInput), (parley.AutoAnalyzeOptions, parley.AutoAnalyzeInput)],
    ids=["Generate", "AutoAnalyze"],
)
def test_options_name_every_field_of_the_input(options: type, model: type[BaseModel]):
    """An input's new field would be out of a caller's reach otherwise."""
    arguments = {"workspace_id", "user_id", "action", "prompt", "dataset_id", *NOT_THE_CALLERS}
    fields = {*model.model_fields, *(parley.Prompt.model_fields if "prompt" in model.model_fields else ())}
    assert {*get_type_hints(options)} == fields - arguments - {"messages", "sha256"}


def test_every_error_that_the_client_says_it_raises_is_offered():
    documents = "".join(inspect.getdoc(function) or "" for kind in SPOKEN for function in public_functions(kind))
    named = {name for name in RAISES.findall(documents) if hasattr(errors, name)}
    assert "NotFound" in named
    assert named <= {*parley.__all__}
