"""Faults: what goes wrong, for which provider and how often. Planned faults apply in the order of the plan."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from simulator.jobs import asks_for_groups
from simulator.schemas import ID_NAME, all_property_names, items_field
from simulator.wire import PROVIDERS, Prompt, Refusal

FAULT_HEADER = "x-simulator-fault"
RETRY_AFTER = 1.0  # seconds; the default of a rate limit
INVENTED = "invented-by-the-simulator"
Items = list[dict[str, Any]]

# The traits that a request must have to show a fault. A planned fault skips the requests without them.
CHAT, STREAM, ITEMS = frozenset({"chat"}), frozenset({"stream"}), frozenset({"items"})
# A stream in OpenAI's chunks.
CHUNKS = frozenset({"chunks"})
GROUPS = frozenset({"groups"})
QUOTES = frozenset({"quotes"})
ANY: frozenset[str] = frozenset()

# Error replies: nothing is computed or billed.
REFUSALS: Mapping[str, frozenset[str]] = {
    "rate_limit": ANY,
    "quota": ANY,
    "server_error": ANY,
    "overloaded": ANY,
    "html": ANY,
    "auth": ANY,
    "bad_request": ANY,
    "context_too_long": CHAT,
    "too_large_for_minute": CHAT,
    "spend_limit": CHAT,
    "billing_inactive": CHAT,
    "content_filter": CHAT,
    "gateway_timeout": ANY,
    "error_in_200": CHAT,
}
# The reply is computed and billed, but the completion is wrong.
DAMAGES: Mapping[str, frozenset[str]] = {
    "malformed": CHAT,
    "truncated": CHAT,
    "aborted": CHAT,
    "no_finish": CHAT,
    "missing_items": ITEMS,
    "invented_items": ITEMS,
    "duplicated_items": ITEMS,
    "one_group": GROUPS,
    "invented_quotes": QUOTES,
    "near_quotes": QUOTES,
    "false_numbers": QUOTES,
    "empty": CHAT,
    "odd_finish": CHAT,
    "content_parts": CHAT,
    "reasoning_beside": CHAT,
    "price_class": CHAT,
    "in_stream_error": STREAM,
    "split_escapes": STREAM,
    "usage_beside_choice": CHUNKS,
    "usage_in_every_chunk": CHUNKS,
    "no_usage": CHUNKS,
}
# The reply is computed and billed, but its delivery fails.
DELIVERIES: Mapping[str, frozenset[str]] = {
    "hang": ANY,
    "cut": ANY,
    "not_json": ANY,
    "slow": ANY,
    "cut_at_first_token": STREAM,
    "cut_after_last_token": STREAM,
    "stall": STREAM,
    "slow_tokens": STREAM,
    "split_bytes": STREAM,
}
# Where a stream breaks, as the share of its tokens that are sent. After `stall` the connection stays open.
BREAKS = {"cut_at_first_token": 0.0, "cut": 0.5, "stall": 0.5, "cut_after_last_token": 1.0}
# `hold` is the time in the middle of the reply, not before it.
PACED = ("stall", "slow_tokens")

# The reply to the request that creates a batch is as usual: its lines are not.
BATCH = frozenset({"batch"})
BATCHES: Mapping[str, frozenset[str]] = {
    "batch_rejected": BATCH,
    "batch_expired": BATCH,
    "batch_half": BATCH,
    "batch_missing": BATCH,
    "batch_odd_lines": BATCH,
}

FAULTS: Mapping[str, frozenset[str]] = {**REFUSALS, **DAMAGES, **DELIVERIES, **BATCHES}

# Refusals that also affect unbilled requests, such as a list of models, while they are planned until reset.
OUTAGES = frozenset({"server_error", "overloaded", "html", "auth", "rate_limit"})


@dataclass(frozen=True)
class Fault:
    """One fault. An empty name means that there is no fault.

    `retry_after`: seconds in the header of a refusal. `hold`: seconds for which the reply is held back first; `hang`
    and `stall` close the connection after that time, or never without one; `slow_tokens` spreads the tokens over it.
    """

    name: str = ""
    retry_after: float | None = None
    hold: float | None = None

    def __post_init__(self) -> None:
        if self.name and self.name not in FAULTS:
            raise ValueError(f"unknown fault {self.name!r}: one of {', '.join(sorted(FAULTS))}")

    @property
    def wait(self) -> float:
        """The seconds before the first byte."""
        return 0.0 if self.name in PACED else self.hold or 0.0

    @property
    def damage(self) -> str:
        return self.name if self.name in DAMAGES else ""

    def raise_refusal(self) -> None:
        """Raise Refusal if the fault is an error reply."""
        if self.name in REFUSALS:
            default = RETRY_AFTER if self.name == "rate_limit" else None
            raise Refusal(self.name, retry_after=default if self.retry_after is None else self.retry_after)


NO_FAULT = Fault()


@dataclass(frozen=True)
class Rule:
    """A planned fault.

    `provider` None: all providers. `times` None: until reset. `after`: how many matching requests it skips first.
    """

    fault: Fault
    provider: str | None = None
    times: int | None = 1
    after: int = 0

    def matches(self, provider: str, traits: frozenset[str]) -> bool:
        return self.provider in (None, provider) and FAULTS[self.fault.name] <= traits

    def as_json(self) -> dict[str, Any]:
        fault = self.fault
        return {
            "fault": fault.name,
            "provider": self.provider,
            "times": self.times,
            "after": self.after,
            "retry_after": fault.retry_after,
            "hold": fault.hold,
        }


class FaultPlan:
    """The rules that are not used up. `take` never awaits, so two concurrent requests cannot take the same fault."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def take(self, provider: str, traits: frozenset[str], header: str | None) -> Fault:
        """Return the fault in the request's header, or else that of the first matching rule."""
        if header:
            return _fault_from_header(header, traits)
        for position, rule in enumerate(self.rules):
            if not rule.matches(provider, traits):
                continue
            if rule.after:
                self.rules[position] = replace(rule, after=rule.after - 1)
                continue
            self._use(position, rule)
            return rule.fault
        return NO_FAULT

    def until_reset(self, provider: str, names: Collection[str]) -> Fault:
        """Return the provider's fault that lasts until reset, if it is one of these names. It uses up no rule."""
        for rule in self.rules:
            is_permanent = rule.times is None and not rule.after
            if is_permanent and rule.fault.name in names and rule.matches(provider, ANY):
                return rule.fault
        return NO_FAULT

    def _use(self, position: int, rule: Rule) -> None:
        if rule.times is None:
            return
        if rule.times > 1:
            self.rules[position] = replace(rule, times=rule.times - 1)
        else:
            del self.rules[position]


def _fault_from_header(header: str, traits: frozenset[str]) -> Fault:
    """Parse `name[;retry_after=2][;hold=1]`. Raises Refusal for a fault that this request cannot show."""
    name, *options = (part.strip() for part in header.split(";"))
    try:
        fault = Fault(name, **{key: float(value) for key, value in (option.split("=") for option in options)})
    except (ValueError, TypeError) as problem:
        raise Refusal("bad_request", f"{FAULT_HEADER}: {problem}") from problem
    missing = FAULTS.get(name, ANY) - traits
    if missing:
        raise Refusal("bad_request", f"{FAULT_HEADER}: {name} needs a request with {', '.join(missing)}")
    return fault


def rule_from_json(value: Mapping[str, Any]) -> Rule:
    """Parse a rule from the body of POST /admin/faults.

    Raises:
        ValueError: names the field and the values that it accepts.
    """
    unknown = set(value) - {"fault", "provider", "times", "retry_after", "after", "hold"}
    if unknown or not value.get("fault"):
        raise ValueError(f"unknown fields: {sorted(unknown)}" if unknown else "fault: missing")
    provider, times, after = value.get("provider"), value.get("times", 1), value.get("after", 0)
    if provider not in (None, *PROVIDERS):
        raise ValueError(f"provider: must be one of {', '.join(PROVIDERS)}, or null for all")
    if not (times is None or (isinstance(times, int) and times > 0)) or not isinstance(after, int) or after < 0:
        raise ValueError("times: must be a positive integer or null; after: must be 0 or a positive integer")
    return Rule(Fault(value["fault"], value.get("retry_after"), value.get("hold")), provider, times, after)


# Faults in the completion itself


def chat_traits(prompt: Prompt) -> frozenset[str]:
    """Return the traits of a chat request: they decide which faults it can show."""
    traits = {"chat"}
    if prompt.stream:
        traits.add("stream")
    if prompt.schema and items_field(prompt.schema):
        traits.add("items")
    if prompt.schema and asks_for_groups(prompt.schema):
        traits.add("groups")
    if prompt.schema and "quote" in all_property_names(prompt.schema):
        traits.add("quotes")
    return frozenset(traits)


def damaged(text: str, damage: str, prompt: Prompt) -> tuple[str, str | None]:
    """Return the text with the fault named by `damage`, and its finish reason (None if missing)."""
    if damage in CHANGED_ENDS:
        return CHANGED_ENDS[damage](text)
    if damage in WRONG_TEXTS:
        return json.dumps(_changed(json.loads(text), *WRONG_TEXTS[damage]), ensure_ascii=False), "stop"
    if damage in WRONG_ITEMS and prompt.schema:
        return _with_wrong_items(text, WRONG_ITEMS[damage], items_field(prompt.schema) or ""), "stop"
    return text, "stop"


def _invalid_json(text: str) -> str:
    """Return text that is not JSON: a truncated object, or plain text after an unclosed string."""
    return text[: len(text) * 2 // 3] if text.startswith("{") else '{"reply": "' + text


def _with_wrong_items(text: str, change: Callable[[Items], Items], field: str) -> str:
    reply = json.loads(text)
    reply[field] = change(reply[field])
    return json.dumps(reply, ensure_ascii=False)


def _one_group(groups: Items) -> Items:
    """Put all members in the first group, like a model that groups labels too loosely."""
    members = [member for group in groups for member in group["members"]]
    return [groups[0] | {"members": members}] if groups else []


def _invented(items: Items) -> dict[str, Any]:
    """Return a copy of the last item with an id, and lists of texts, that were not in the prompt."""
    item = {name: [INVENTED] if _is_texts(value) else value for name, value in (items[-1] if items else {}).items()}
    name = next((name for name in item if ID_NAME.search(name)), None)
    name = name or next((name for name, value in item.items() if isinstance(value, str)), "id")
    ids = [other.get(name) for other in items]
    numbers = [value for value in ids if isinstance(value, int)]
    item[name] = max(numbers) + 1000 if numbers else INVENTED
    return item


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, str) for part in value)


def _changed(value: Any, names: Collection[str], change: Callable[[str], str], name: str = "") -> Any:
    """Return a value with the texts of these fields changed, at any depth."""
    if isinstance(value, dict):
        return {key: _changed(part, names, change, key) for key, part in value.items()}
    if isinstance(value, list):
        return [_changed(part, names, change, name) for part in value]
    return change(value) if isinstance(value, str) and name in names else value


def _near(quote: str) -> str:
    """Return a quote without its third word, in capitals, as a model remembers it."""
    words = quote.split()
    return " ".join([*words[:2], *words[3:]] if len(words) > 4 else words).upper()


FALSE_NUMBERS = "The pace was 987 words a minute. The rep asked 432 questions."
WRONG_TEXTS: Mapping[str, tuple[Collection[str], Callable[[str], str]]] = {
    "invented_quotes": (("quote",), lambda quote: f"{INVENTED}: {quote[::-1]}"),
    "near_quotes": (("quote",), _near),
    "false_numbers": (("comment", "text"), lambda text: f"{text} {FALSE_NUMBERS}"),
}
WRONG_ITEMS: Mapping[str, Callable[[Items], Items]] = {
    "missing_items": lambda items: items[:-1],
    "invented_items": lambda items: [*items, _invented(items)],
    "duplicated_items": lambda items: [*items, *items[:1]],
    "one_group": _one_group,
}
CHANGED_ENDS: Mapping[str, Callable[[str], tuple[str, str | None]]] = {
    "malformed": lambda text: (_invalid_json(text), "stop"),
    "truncated": lambda text: (text[: len(text) // 2], "length"),
    "aborted": lambda text: (text[: len(text) * 2 // 3], "error"),
    "no_finish": lambda text: (text, None),
    "empty": lambda _: ("", "length"),
    "odd_finish": lambda text: (text, "eos_token"),
}
