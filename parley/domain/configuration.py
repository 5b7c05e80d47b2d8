"""The configuration of a workspace and its users: material for prompts, preferences, and where its keys are.

New sections are checked strictly (`parse_section`). Stored sections may be older than this code, so reading
them never fails (`read_configuration`): a field that is not valid falls back to its default, with a warning.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self, cast

from pydantic import AfterValidator, Field, ValidationError, model_validator

from parley.domain.errors import InvalidInput
from parley.domain.masking import EVERY_KIND, Personal
from parley.domain.model import STORABLE, Model, Name
from parley.domain.requests import ChatProvider, Provider

SECTION_BYTES = 64_000
# Every result contains the warnings, so their number and length are limited.
MOST_WARNINGS, WARNING_CHARACTERS, NAME_CHARACTERS = 5, 200, 40
# The most that one value adds to a prompt, one line of a list, and a list.
VALUE_CHARACTERS, ENTRY_CHARACTERS, LIST_CHARACTERS = 2000, 500, 4000

Line = Annotated[str, Field(max_length=200), STORABLE]
Prose = Annotated[str, Field(max_length=2000), STORABLE]

# A vendor's key prefix, or a run of letters and digits that is too long for a file name.
KEY_LIKE = re.compile(r"(^|/)(sk|pk|rk|gsk|xi|key)[-_]|(?=[A-Za-z]*[0-9])[A-Za-z0-9]{24}", re.IGNORECASE)
ENVIRONMENT_NAME = r"^[A-Z][A-Z0-9_]*_API_KEY$"
FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"


def _no_key(name: str) -> str:
    if KEY_LIKE.search(name):
        raise ValueError("looks like a key: give the name of the file that holds it")
    return name


class Profile(Model):
    """The user's energy account. `energy`: the energy that is left. It is read from the account, not configured."""

    tier: str = "free"
    energy: int = 0


class Branding(Model):
    """The workspace's branding. `signature`: how its messages sign off."""

    name: Line = ""
    tagline: Line = ""
    signature: Line = ""


class Funnel(Model):
    """A sales funnel with its stages."""

    name: Name
    stages: tuple[Line, ...] = Field(default=(), max_length=30)


class Behaviour(Model):
    """Instructions for every prompt of the workspace. `avoid`: words and claims that it must not use."""

    instructions: Prose = ""
    avoid: tuple[Line, ...] = Field(default=(), max_length=50)


class Workspace(Model):
    branding: Branding = Branding()
    funnels: tuple[Funnel, ...] = Field(default=(), max_length=20)
    ai: Behaviour = Behaviour()


class Company(Model):
    name: Line = ""
    industry: Line = "general business"
    brand_voice: Line = "clear and friendly"
    description: Prose = ""


class Product(Model):
    """`price`: text for prospects, for example "$49 a month"."""

    name: Name
    description: Prose = ""
    price: Line = ""


class Products(Model):
    items: tuple[Product, ...] = Field(default=(), max_length=100)


class AISettings(Model):
    """A user's preferences, for what a request does not set."""

    tone: Line = "friendly"
    style: Line = "concise"
    language: Line = ""
    template: Annotated[str, Field(max_length=100), STORABLE] | None = None
    provider: ChatProvider | None = None
    model: Name | None = None


class Reference(Model):
    """Where a key is, never the key: an environment variable of the workers, or a file in PARLEY_SECRETS_DIR."""

    env: Annotated[str, Field(max_length=100, pattern=ENVIRONMENT_NAME)] | None = None
    file: Annotated[str, Field(max_length=200, pattern=FILE_NAME), AfterValidator(_no_key)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError('give either env or file, for example {"env": "ACME_OPENAI_API_KEY"}')
        return self

    def __str__(self) -> str:
        return f"env {self.env}" if self.env else f"file {self.file}" if self.file else "unreadable"


# Replaces a stored reference that cannot be read. No key is found under it, so that a workspace with its own key is
# never served with the fleet's key by accident.
UNREADABLE = Reference.model_construct()


class Credentials(Model):
    """The workspace's keys, by reference. A provider without a reference is called with the fleet's key."""

    openai: Reference | None = None
    anthropic: Reference | None = None
    elevenlabs: Reference | None = None
    local: Reference | None = None

    def of(self, provider: Provider) -> Reference | None:
        """The reference for a provider; None also for one that runs in the worker and has no key."""
        return getattr(self, provider.value, None)


class Privacy(Model):
    """How the workspace protects what people say.

    mask: personal data that no provider sees.
    content_days: after how many days the content of conversations, phone calls, sessions and jobs is removed; None:
        as the fleet's settings say. What it cost stays.
    """

    mask: tuple[Personal, ...] = Field(default=(), max_length=len(Personal))
    content_days: int | None = Field(default=None, ge=1, le=36_500)


class Configuration(Model):
    """All sections, with defaults for unset ones."""

    profile: Profile = Profile()
    workspace: Workspace = Workspace()
    company: Company = Company()
    products: Products = Products()
    ai_settings: AISettings = AISettings()
    credentials: Credentials = Credentials()
    privacy: Privacy = Privacy()


PROFILE = "profile"
SECTIONS: dict[str, type[Model]] = {
    "workspace": Workspace,
    "company": Company,
    "products": Products,
    "ai_settings": AISettings,
    "credentials": Credentials,
    "privacy": Privacy,
}
USER_SECTIONS = frozenset({"ai_settings"})

Place = tuple[int | str, ...]
UNKNOWN = "is not known"
WORDS = {"extra_forbidden": UNKNOWN, "model_type": "should be an object", "tuple_type": "should be a list"}


def parse_section(section: str, data: object, *, where: str = "") -> dict[str, Any]:
    """A section to store: the given fields, without defaults.

    Raises:
        InvalidInput: names every invalid field, never its value.
    """
    kind = SECTIONS.get(section)
    if kind is None:
        ours = "comes from the energy account (`parley energy`)" if section == PROFILE else "is not a section"
        raise InvalidInput(f"{ours}; what can be set: {', '.join(SECTIONS)}", where=_printable(section))
    try:
        given = kind.model_validate(data).model_dump(mode="json", exclude_unset=True, exclude_none=True)
    except ValidationError as error:
        wrong = [f"{_named(section, place)}: {words}" for place, words in _problems(error).items()]
        raise InvalidInput("; ".join(_first(wrong)), where=where) from None
    if len(json.dumps(given)) > SECTION_BYTES:
        raise InvalidInput(f"has more than the {SECTION_BYTES:,} bytes allowed", where=where, field=section)
    return given


def read_configuration(sections: Mapping[str, object]) -> tuple[Configuration, tuple[str, ...]]:
    """The configuration of the stored sections, with warnings for invalid parts. Never raises."""
    kinds = {PROFILE: Profile, **SECTIONS}
    read: dict[str, Model] = {}
    warnings: list[str] = []
    for name, data in sections.items():
        if name not in kinds:
            warnings.append(f"{_printable(name)}: is not a section; ignored")
            continue
        read[name], wrong = _read_section(kinds[name], name, data)
        warnings += wrong
    if "credentials" in read:
        credentials = cast("Credentials", read["credentials"])
        read["credentials"] = _with_unreadable(credentials, sections["credentials"])
    if any(line.startswith(("privacy.mask", "privacy:")) for line in warnings):
        # Text that should have been masked cannot be taken back from a provider.
        warnings.append("privacy.mask: cannot be read, so everything is masked")
        read["privacy"] = cast("Privacy", read["privacy"]).model_copy(update={"mask": EVERY_KIND})
    return Configuration.model_validate(read), _first(warnings)


def fields(configuration: Configuration) -> Iterator[tuple[str, Any, bool]]:
    """Every field as its name (`company.industry`), its value, and whether that was set."""
    return _fields(configuration, "")


def variables(configuration: Configuration) -> dict[str, str]:
    """The variables of templates, as short plain text. Every variable exists, but may be empty.

    The values are untrusted text: none has a line break that could pass for a line of the template. They are inserted
    once and never parsed as a template.
    """
    workspace, company, settings = configuration.workspace, configuration.company, configuration.ai_settings
    single = {
        "workspace": workspace.branding.name,
        "tagline": workspace.branding.tagline,
        "signature": workspace.branding.signature,
        "instructions": workspace.ai.instructions,
        "avoid": ", ".join(workspace.ai.avoid),
        "company": company.name or workspace.branding.name,
        "company_description": company.description,
        "industry": company.industry,
        "brand_voice": company.brand_voice,
        "tone": settings.tone,
        "style": settings.style,
        "language": settings.language,
    }
    return {
        **{name: _line(text, VALUE_CHARACTERS) for name, text in single.items()},
        "funnels": _listed(_joined(funnel.name, " > ".join(funnel.stages)) for funnel in workspace.funnels),
        "products": _listed(_joined(item.name, item.description, item.price) for item in configuration.products.items),
    }


def _read_section(kind: type[Model], section: str, data: object) -> tuple[Model, list[str]]:
    """The valid part of a section, and a warning for each invalid part.

    Fields go first; then entries of lists, from the last to the first, so that a warning's number is the stored one.
    """
    instead = "no key is taken from it" if section == "credentials" else "the default is used"
    warnings: list[str] = []
    while True:
        try:
            return kind.model_validate(data), warnings
        except ValidationError as error:
            problems = _problems(error)
        bad_fields = {place: words for place, words in problems.items() if place and isinstance(place[-1], str)}
        for place, words in (bad_fields or dict(sorted(problems.items(), reverse=True))).items():
            ending = instead if bad_fields or not place else "left out"
            warnings.append(f"{_named(section, place)}: {words}; {'ignored' if words == UNKNOWN else ending}")
            less = _without(data, place)
            data = less if less != data else {}


def _problems(error: ValidationError) -> dict[Place, str]:
    """The problem at each place. An object that lacks a field is invalid as a whole."""
    problems: dict[Place, str] = {}
    for found in error.errors(include_url=False, include_input=False, include_context=False):
        place, words = found["loc"], WORDS.get(found["type"]) or found["msg"].removeprefix("Value error, ")
        if found["type"] == "missing":
            place, words = place[:-1], f"{place[-1]} is missing"
        problems.setdefault(place, words)
    return problems


def _without(data: Any, place: Place) -> Any:
    """The data without the value at a place; empty if the place does not exist."""
    if isinstance(data, list) and place:
        listed = cast("list[Any]", data)
        return list(_without(dict(enumerate(listed)), place).values())
    if not isinstance(data, dict) or not place or place[0] not in data:
        return {}
    entries = dict(cast("dict[int | str, Any]", data))
    head, rest = place[0], place[1:]
    if rest:
        return {**entries, head: _without(entries[head], rest)}
    del entries[head]
    return entries


def _with_unreadable(credentials: Credentials, stored: object) -> Credentials:
    """The credentials, with `UNREADABLE` in place of each reference that cannot be read."""
    keyed = Credentials.model_fields
    named = cast("Mapping[str, object]", stored) if isinstance(stored, Mapping) else dict.fromkeys(keyed, stored)
    lost = [name for name in keyed if named.get(name) is not None and getattr(credentials, name) is None]
    return credentials.model_copy(update=dict.fromkeys(lost, UNREADABLE))


def _fields(part: Model, prefix: str) -> Iterator[tuple[str, Any, bool]]:
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Model) and not isinstance(value, Reference):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, name in part.model_fields_set


def _named(section: str, place: Place) -> str:
    return ".".join((section, *(_printable(part) for part in place)))


def _printable(part: int | str) -> str:
    """A user's name made safe for a message: short, printable, and hidden if it looks like a key."""
    text = str(part)
    if KEY_LIKE.search(text):
        return "[hidden]"
    text = text if len(text) <= NAME_CHARACTERS else f"{text[:NAME_CHARACTERS]}…"
    return text if text.isprintable() else ascii(text)


def _first(lines: Sequence[str]) -> tuple[str, ...]:
    shown = tuple(_line(line, WARNING_CHARACTERS) for line in lines[:MOST_WARNINGS])
    return shown if len(lines) <= MOST_WARNINGS else (*shown, f"and {len(lines) - MOST_WARNINGS} more")


def _line(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _joined(name: str, *more: str) -> str:
    return ": ".join((name, ", ".join(filter(None, more)))) if any(more) else name


def _listed(entries: Iterator[str]) -> str:
    """One entry a line, as many as fit."""
    lines: list[str] = []
    for entry in entries:
        lines.append(f"- {_line(entry, ENTRY_CHARACTERS)}")
        if sum(map(len, lines)) > LIST_CHARACTERS:
            return "\n".join([*lines[:-1], "- …"])
    return "\n".join(lines)
