"""`parley` exports every type that its client takes, returns or raises."""

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
INTERNAL = {"snapshot"}
PACKAGE = "parley"
# Imported for the type checker only, because the import would be circular.
LATE = {"Client": parley.Client}
RAISES = re.compile(r"^\s+([A-Z]\w+): ", re.MULTILINE)


def public_functions(kind: type) -> Iterator[Callable[..., Any]]:
    for name, member in inspect.getmembers(kind):
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(function):
            yield function


def named_in(hint: Any) -> Iterator[type]:
    """The types in a hint, including those of its parameters."""
    if get_origin(hint) is Literal:
        return
    generic = getattr(hint, "__pydantic_generic_metadata__", {})
    for part in (*get_args(hint), *generic.get("args", ())):
        yield from named_in(part)
    kind = generic.get("origin") or get_origin(hint) or hint
    if isinstance(kind, type) and kind.__module__.partition(".")[0] == PACKAGE:
        yield kind


def types_in_signatures(kind: type, known: set[type]) -> set[type]:
    """The types in the signatures of a class, and of the handles and clients that it returns."""
    for function in public_functions(kind):
        for hint in get_type_hints(function, localns=LATE).values():
            for found in set(named_in(hint)) - known:
                known.add(found)
                if not issubclass(found, BaseModel):
                    types_in_signatures(found, known)
    return known


def types_in_fields(kind: type[BaseModel], known: set[type]) -> set[type]:
    """The types of a model's fields, and of theirs."""
    fields = [field for name, field in kind.model_fields.items() if name not in INTERNAL]
    for field in fields:
        for found in set(named_in(field.annotation)) - known:
            known.add(found)
            if issubclass(found, BaseModel):
                types_in_fields(found, known)
    return known


PUBLIC = types_in_signatures(parley.Backend, {parley.Backend})
FIELDS = set[type]().union(*(types_in_fields(kind, set[type]()) for kind in BY_FIELD))
EXPORTED = sorted(PUBLIC | FIELDS, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("name", parley.__all__)
def test_every_public_name_exists(name: str):
    assert getattr(parley, name) is not None


@pytest.mark.parametrize("kind", EXPORTED, ids=lambda kind: kind.__name__)
def test_every_type_of_the_public_api_is_exported(kind: type):
    assert getattr(parley, kind.__name__, None) is kind
    assert kind.__name__ in parley.__all__


def test_no_public_function_takes_untyped_options():
    """`**options` is a TypedDict that is public as well: its keys and types are part of the API."""
    for kind in (kind for kind in PUBLIC if not issubclass(kind, BaseModel)):
        for function in public_functions(kind):
            for name, given in inspect.signature(function).parameters.items():
                if given.kind is not given.VAR_KEYWORD:
                    continue
                options = get_args(get_type_hints(function, localns=LATE)[name])[0]
                assert is_typeddict(options)
                assert options.__name__ in parley.__all__


# The option from which the client makes a field; `fork_of` has a function of its own.
SET_BY = {"taxonomy": "labels", "closed": "labels", "since": "since_analysis"}


@pytest.mark.parametrize(
    ("options", "model"),
    [(parley.GenerateOptions, parley.GenerateInput), (parley.AutoAnalyzeOptions, parley.AutoAnalyzeInput)],
    ids=["Generate", "AutoAnalyze"],
)
def test_options_name_every_field_of_the_input(options: type, model: type[BaseModel]):
    """Otherwise callers could not set a new field of an input."""
    arguments = {"workspace_id", "user_id", "action", "prompt", "dataset_id", "stream", *INTERNAL}
    fields = {*model.model_fields, *(parley.Prompt.model_fields if "prompt" in model.model_fields else ())}
    named = {SET_BY.get(field, field) for field in fields - arguments - {"messages", "sha256", "fork_of"}}
    assert {*get_type_hints(options)} == named


def test_every_documented_error_is_exported():
    documents = "".join(inspect.getdoc(function) or "" for kind in PUBLIC for function in public_functions(kind))
    named = {name for name in RAISES.findall(documents) if hasattr(errors, name)}
    assert "NotFound" in named
    assert named <= {*parley.__all__}
