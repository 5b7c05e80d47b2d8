"""Faults: what goes wrong, for whom, how often. Taken in the order in which they were planned."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from simulator.wire import PROVIDERS, Refusal

FAULT_HEADER = "x-simulator-fault"
RETRY_AFTER = 1.0  # what a rate limit asks for unless told otherwise

CHAT, STREAM, ITEMS = frozenset({"chat"}), frozenset({"stream"}), frozenset({"items"})
GROUPS = frozenset({"groups"})
ANY: frozenset[str] = frozenset()

# Refused before anything is computed, and so not billed.
REFUSALS: Mapping[str, frozenset[str]] = {
    "rate_limit": ANY,
    "quota": ANY,
    "server_error": ANY,
    "overloaded": ANY,
    "html": ANY,
    "auth": ANY,
    "bad_request": ANY,
    "context_too_long": CHAT,
}
# Computed and billed, but the completion is not what it should be.
DAMAGES: Mapping[str, frozenset[str]] = {
    "malformed": CHAT,
    "truncated": CHAT,
    "no_finish": CHAT,
    "missing_items": ITEMS,
    "invented_items": ITEMS,
    "duplicated_items": ITEMS,
    "one_group": GROUPS,
    "in_stream_error": STREAM,
}
# Computed and billed, but the reply does not arrive as it should.
DELIVERIES: Mapping[str, frozenset[str]] = {"hang": ANY, "cut": ANY, "not_json": ANY, "slow": ANY}

# What ends requests that cost nothing as well, where it is planned without an end.
OUTAGES = frozenset({"server_error", "overloaded", "html", "auth", "rate_limit"})

# The traits that a request must have for a fault to make sense: others pass it by.
FAULTS: Mapping[str, frozenset[str]] = {**REFUSALS, **DAMAGES, **DELIVERIES}


@dataclass(frozen=True)
class Fault:
    """`hold`: seconds that the reply is held back first; for `hang`, after which the connection is cut."""

    name: str = ""
    retry_after: float | None = None
    hold: float | None = None

    def __post_init__(self) -> None:
        if self.name and self.name not in FAULTS:
            raise ValueError(f"unknown fault {self.name!r}: one of {', '.join(sorted(FAULTS))}")

    @property
    def damage(self) -> str:
        return self.name if self.name in DAMAGES else ""

    def refuse(self) -> None:
        if self.name in REFUSALS:
            usual = RETRY_AFTER if self.name == "rate_limit" else None
            raise Refusal(self.name, retry_after=usual if self.retry_after is None else self.retry_after)


NO_FAULT = Fault()


@dataclass(frozen=True)
class Rule:
    """A planned fault. `times` None: until reset. `after`: requests that it lets pass first."""

    fault: Fault
    provider: str | None = None
    times: int | None = 1
    after: int = 0

    def concerns(self, provider: str, traits: frozenset[str]) -> bool:
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
    """The rules that remain. `take` never awaits, so concurrent requests cannot take one fault twice."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def take(self, provider: str, traits: frozenset[str], header: str | None) -> Fault:
        """This request's fault: its own header's, else the first rule's that concerns it."""
        if header:
            return _from_header(header, traits)
        for position, rule in enumerate(self.rules):
            if not rule.concerns(provider, traits):
                continue
            if rule.after:
                self.rules[position] = replace(rule, after=rule.after - 1)
                continue
            self._use(position, rule)
            return rule.fault
        return NO_FAULT

    def standing(self, provider: str, concerning: Collection[str]) -> Fault:
        """The fault that a provider has until reset, if it is one of these. Nothing that was planned is used up."""
        standing = (rule for rule in self.rules if rule.times is None and not rule.after)
        for rule in standing:
            if rule.fault.name in concerning and rule.concerns(provider, ANY):
                return rule.fault
        return NO_FAULT

    def _use(self, position: int, rule: Rule) -> None:
        if rule.times is None:
            return
        if rule.times > 1:
            self.rules[position] = replace(rule, times=rule.times - 1)
        else:
            del self.rules[position]


def _from_header(header: str, traits: frozenset[str]) -> Fault:
    """`name[;retry_after=2][;hold=1]`. A fault that cannot show on this request is an error, not a no-op."""
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
    """A rule as POST /admin/faults takes it; ValueError says what is wrong."""
    unknown = set(value) - {"fault", "provider", "times", "retry_after", "after", "hold"}
    if unknown or not value.get("fault"):
        raise ValueError(f"unknown fields: {sorted(unknown)}" if unknown else "fault: missing")
    provider, times, after = value.get("provider"), value.get("times", 1), value.get("after", 0)
    if provider not in (None, *PROVIDERS):
        raise ValueError(f"provider: one of {', '.join(PROVIDERS)}, or null")
    if not (times is None or (isinstance(times, int) and times > 0)) or not isinstance(after, int) or after < 0:
        raise ValueError("times: a positive number or null; after: not negative")
    return Rule(Fault(value["fault"], value.get("retry_after"), value.get("hold")), provider, times, after)
