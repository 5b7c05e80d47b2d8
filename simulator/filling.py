"""Fills any JSON schema from the text of a prompt: by features of the text, or else by the seed."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from simulator.coaching import Finding, Findings, quoted
from simulator.schemas import ID_NAME, Schema, bound, kind, nullable, resolve
from simulator.seeded import SeededChoice
from simulator.text import Entry, clip, first_words, keywords, list_entries, mentions, related_sentence, sentence_with

MARKS = "\"'.,;:!?()"
MAX_DEPTH = 12  # a schema may refer to itself
LABEL_NAMES = ("label", "category", "topic", "name", "title", "intent", "theme", "tag")
QUOTE_NAMES = ("quote", "evidence", "example", "excerpt", "phrase")
SPOKEN = ("better", "better_line", "say_instead")
TIME_NAMES = ("time", "timestamp", "at", "start")
TITLE_NAMES = ("title", "name", "area", "skill", "label", "topic", "category")
FORMATS = {
    "date": "2024-01-01",
    "time": "00:00:00Z",
    "date-time": "2024-01-01T00:00:00Z",
    "email": "nobody@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


class Filler:
    """Fills the schema of one reply. A field with the name of a finding gets that finding."""

    def __init__(self, schema: Schema, choice: SeededChoice, findings: Findings) -> None:
        self._root, self._choice, self._findings = schema, choice, findings
        self._by_kind: dict[str, Callable[[Schema, tuple[str, ...], str], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._number,
            "number": self._number,
            "boolean": lambda _schema, path, text: mentions(text, path[-1]) > 0,
            "null": lambda _schema, _path, _text: None,
        }

    def fill(self, text: str) -> Any:
        return self._value(self._root, ("reply",), text)

    def _value(self, declared: Schema, path: tuple[str, ...], text: str) -> Any:
        if len(path) > MAX_DEPTH and nullable(declared):
            return None
        schema = resolve(self._root, declared)
        finding = self._findings.get(path[-1])
        if finding:
            return self._finding(schema, finding, path[-1])
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._option(schema["enum"], path, text)
        return self._by_kind[kind(schema)](schema, path, text)

    def _option(self, options: Sequence[Any], path: tuple[str, ...], text: str) -> Any:
        """Return the option that the text mentions most. If it mentions none, the seed chooses."""
        counts = [mentions(text, str(option)) for option in options]
        if max(counts):
            return options[counts.index(max(counts))]
        return self._choice.pick(options, path, text)

    def _object(self, schema: Schema, path: tuple[str, ...], text: str) -> dict[str, Any]:
        required = schema.get("required", ())
        return {
            name: self._value(child, (*path, name), text)
            for name, child in schema.get("properties", {}).items()
            if name in required or len(path) <= MAX_DEPTH
        }

    def _array(self, schema: Schema, path: tuple[str, ...], text: str) -> list[Any]:
        declared = schema.get("items", {"type": "string"})
        item = resolve(self._root, declared)
        id_name = next((name for name in item.get("properties", {}) if ID_NAME.search(name)), None)
        listed = list_entries(text) if id_name else []
        if id_name and listed:
            return [self._entry(item, id_name, entry, path) for entry in listed[: _count(schema, len(listed))]]
        length = _count(schema, 0 if len(path) > MAX_DEPTH else 2)
        sources = [(str(number), text) for number in range(length)]
        if kind(item) == "string" and not item.get("enum"):
            return [_fit(self._label(source, int(number)), item) for number, source in sources]
        return [self._value(declared, (*path, number), source) for number, source in sources]

    def _entry(self, item: Schema, id_name: str, entry: Entry, path: tuple[str, ...]) -> dict[str, Any]:
        """Fill one item of a list from the text of its own entry."""
        filled = self._object(item, (*path, entry.id), entry.text)
        is_number = kind(resolve(self._root, item["properties"][id_name])) == "integer"
        return filled | {id_name: int(entry.id) if is_number and entry.id.isdigit() else entry.id}

    def _string(self, schema: Schema, path: tuple[str, ...], text: str) -> str:
        if schema.get("format") in FORMATS:
            return FORMATS[schema["format"]]
        if fitting := _words_like(schema.get("pattern"), text):
            return fitting[-1]
        if any(name in path[-1].lower() for name in LABEL_NAMES):
            return _fit(self._label(text), schema)
        about = f"{path[-1].replace('_', ' ')} {schema.get('description', '')}"
        sentence = related_sentence(text, about) or clip(text) or "nothing"
        opener = self._choice.pick(('The text says: "{}"', 'It reads: "{}"', 'From the text: "{}"'), path, sentence)
        return _fit(opener.format(sentence.strip()), schema)

    def _label(self, text: str, number: int = 0) -> str:
        """Name the topic of a text in two words. The seed chooses the wording, because models vary it too."""
        words = keywords(text, 2 * number + 2)[2 * number :] or ["other", "matters"]
        first, second = words[0], words[-1]
        if first == second:
            return self._choice.pick((first, f"{first} question", f"{first} issue"), first, text)
        return self._choice.pick((f"{first} {second}", f"{second} {first}", f"{first} and {second}"), first, text)

    def _number(self, schema: Schema, path: tuple[str, ...], text: str) -> float:
        """Return a number within the bounds. Equal texts get equal numbers."""
        low, high = _range(schema, path[-1])
        if kind(schema) == "integer":
            return self._choice.number(int(low), int(high), path, text)
        return round(low + (high - low) * self._choice.number(0, 100, path, text) / 100, 4)

    def _finding(self, schema: Schema, finding: Finding | Sequence[Finding], name: str) -> Any:
        if isinstance(finding, Finding):
            return self._shape(schema, finding, name)
        if kind(schema) == "array":
            count = _count(schema, len(finding))
            item = resolve(self._root, schema.get("items", {"type": "string"}))
            return [self._shape(item, finding[number % len(finding)], "comment") for number in range(count)]
        return self._shape(schema, finding[0], name)

    def _shape(self, declared: Schema, finding: Finding, name: str) -> Any:
        """Return a finding in the form of the schema: a score, a comment, or an object with both."""
        schema = resolve(self._root, declared)
        shape = kind(schema)
        if schema.get("enum"):
            return _chosen(schema["enum"], finding)
        if shape == "object":
            return {key: self._shape(child, finding, key) for key, child in schema.get("properties", {}).items()}
        if shape == "array":
            texts = [quoted(line) for line in finding.lines] or [finding.comment]
            return [_fit(texts[n % len(texts)], schema.get("items", {})) for n in range(_count(schema, len(texts)))]
        if shape in ("integer", "number"):
            return _scaled(schema, finding, name)
        if shape == "boolean":
            return finding.score >= 50
        return _fit(_part(finding, name), schema)


def _chosen(options: Sequence[Any], finding: Finding) -> Any:
    """Return the finding's skill if the options are skills, or else the option at the place of its score."""
    if finding.skill in options:
        return finding.skill
    return options[min(len(options) * finding.score // 101, len(options) - 1)]


def _part(finding: Finding, name: str) -> str:
    """Return the part of a finding that a text field asks for by its name."""
    if name in SPOKEN and finding.better:
        return finding.better
    if name == "quote" and finding.lines:
        text = finding.lines[0].text
        return first_words(sentence_with(text, finding.cue) if finding.cue else text)
    if name in TITLE_NAMES:
        return finding.title
    if finding.lines and name in TIME_NAMES:
        return finding.lines[0].time
    if finding.lines and any(part in name for part in QUOTE_NAMES):
        return quoted(finding.lines[0])
    return finding.comment


def _scaled(schema: Schema, finding: Finding, name: str) -> float:
    if finding.lines and any(part in name.split("_") for part in TIME_NAMES):
        return finding.lines[0].at
    low, high = _range(schema, "score")
    value = finding.score if (low, high) in ((0, 100), (1, 100)) else low + (high - low) * finding.score / 100
    value = min(max(value, low), high)
    return round(value) if kind(schema) == "integer" else value


def _range(schema: Schema, name: str) -> tuple[float, float]:
    """Return the lowest and highest number: as declared, or else 0 to 1 for a probability and 1 to 100 for others."""
    is_integer = kind(schema) == "integer"
    default = (0.0, 1.0) if not is_integer and name in ("confidence", "probability", "share", "ratio") else (1.0, 100.0)
    width, step = default[1] - default[0], 1 if is_integer else 1e-3
    low, high = _lowest(schema, step), _highest(schema, step)
    if low is None and high is None:
        return default
    if low is None:
        low = default[0] if high is None or default[0] <= high else high - width
    if high is None:
        high = max(default[1], low + width) if low > default[0] else default[1]
    return low, high


def _lowest(schema: Schema, step: float) -> float | None:
    above = schema.get("exclusiveMinimum")
    return bound(schema, "minimum", None if above is None else above + step)


def _highest(schema: Schema, step: float) -> float | None:
    below = schema.get("exclusiveMaximum")
    return bound(schema, "maximum", None if below is None else below - step)


def _count(schema: Schema, count: int) -> int:
    """Limit a number of items to the declared bounds."""
    low, high = bound(schema, "minItems", None), bound(schema, "maxItems", None)
    count = count if high is None else min(count, int(high))
    return count if low is None else max(count, int(low))


def _words_like(pattern: str | None, text: str) -> list[str]:
    """Return the words of a text that follow a declared pattern."""
    words = (word.strip(MARKS) for word in text.split())
    return [word for word in words if word and re.search(pattern, word)] if pattern else []


def _fit(text: str, schema: Schema) -> str:
    """Cut or pad a text to its declared length."""
    longest = bound(schema, "maxLength", None)
    text = text if longest is None else text[: int(longest)]
    return text.ljust(schema.get("minLength", 0), ".")
