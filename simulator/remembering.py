"""Extracts facts from a user's turns by patterns of English. It knows nothing but the turns in its prompt.

It is as careless as a small model: it takes a question or a supposition for a statement, "he lives in …" for the user's
own home, a mood for a fact, and it notes what a turn asks to be remembered, even an instruction. A program that trusts
it remembers junk.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Claim = dict[str, Any]
END = (
    r"(?=,? (?:and|but|because|since|now|these days|any ?more|so|which|who|where|when|as well|too|actually|not|at|with"
    r"|last|this)\b|[.,;:!?\n]|$)"
)
VALUE = rf"(?P<value>[^.,;:!?\n]+?){END}(?:,? (?:and )?not (?P<old>[^.,;:!?\n]+))?"
SOON = r"(?:now |just |recently |currently |also |really |still |actually )*"
RELATIVES = (
    r"(?:best friend|(?:little |big |older |younger )?(?:brother|sister)|mother|father|mom|dad|wife|husband|partner|son"
    r"|daughter|friend|boss|colleague|neighbou?r|cousin|aunt|uncle|roommate|dog|cat)"
)
THINGS = r"(?:an? )(?:\w+ )?(?:dog|cat|car|boat|bike|bicycle|cabin|piano|guitar|motorbike|horse|parrot|garden|van|tent)"
# For a verb after "I", its third person, and the predicate.
VERBS = (
    (r"live in|am living in|'m living in|'ve moved to|have moved to|moved to", r"lives in|moved to", "lives_in"),
    (r"work as an?|started as an?", r"works as an?|started as an?", "works_as"),
    (r"work at|work for|started at|quit my job at \w+ and started at", r"works at|works for", "works_at"),
    (r"like|love|enjoy", r"likes|loves|enjoys", "likes"),
    (r"don't like|do not like|hate|can't stand", r"doesn't like|hates|can't stand", "dislikes"),
    (r"am allergic to|'m allergic to", r"is allergic to", "is_allergic_to"),
    (r"speak", r"speaks", "speaks"),
)
IMPORTANCE = {"is_named": 0.9, "is_allergic_to": 0.95, "lives_in": 0.7, "works_as": 0.7, "works_at": 0.6, "feels": 0.2}


@dataclass(frozen=True)
class Rule:
    """What a pattern says. `subject`: of the claim; its group `who` names a relative of the user, or a person."""

    pattern: re.Pattern[str]
    predicate: str
    subject: str = "user"
    change: str = "new"


def _rule(pattern: str, predicate: str, **more: str) -> Rule:
    return Rule(re.compile(pattern, re.IGNORECASE), predicate, **more)


def _rules() -> Iterator[Rule]:
    for first, third, predicate in VERBS:
        yield _rule(rf"\b(?:I|we) ?{SOON}(?:{first}) {VALUE}", predicate)
        yield _rule(rf"\bI (?:no longer|don't|do not) (?:{first}) {VALUE}", predicate, change="ended")
        yield _rule(rf"\bmy (?P<who>{RELATIVES}) {SOON}(?:{third}) {VALUE}", predicate, subject="user's {}")
        yield Rule(re.compile(rf"\b(?P<who>[A-Z][a-z]+) (?:{third}) {VALUE}"), predicate, subject="{}")
        yield _rule(rf"(?<=\bhe )(?:{third}) {VALUE}", predicate)
        yield _rule(rf"(?<=\bshe )(?:{third}) {VALUE}", predicate)
        yield _rule(rf"\bthe user (?:{third}) {VALUE}", predicate)
    yield _rule(rf"\bI {SOON}work as an? [^.,;:!?\n]+? at {VALUE}", "works_at")
    yield _rule(rf"\b(?:my name is|call me) {VALUE}", "is_named")
    yield _rule(
        rf"\bmy (?P<who>{RELATIVES})(?:'s name is| is called| is named) {VALUE}", "is_named", subject="user's {}"
    )
    yield _rule(rf"\bmy favou?rite (?P<thing>\w+) is {VALUE}", "has_favorite_{}")
    yield _rule(rf"\bmy birthday is (?:on )?{VALUE}", "has_birthday")
    yield _rule(
        r"\bI(?: am|'m|(?= turned)) (?:turned )?(?P<value>\d{1,3}) (?:years old|last|yesterday|today)", "is_aged"
    )
    yield _rule(rf"\bI {SOON}(?:have|own|bought|got|adopted) (?P<value>{THINGS}){END}", "owns")
    yield _rule(rf"\bI {SOON}sold my {VALUE}", "owns", change="ended")
    yield _rule(rf"\bI {SOON}quit my job at {VALUE}", "works_at", change="ended")
    yield _rule(r"\bI(?: am|'m) (?:so |very )?(?P<value>tired|hungry|bored|busy|fine|happy|sad)\b", "feels")
    yield _rule(rf"\bremember(?: that|:| this:) {VALUE}", "wants")


RULES = tuple(_rules())
NOT_PEOPLE = frozenset(("It", "We", "This", "That", "What", "Who", "There", "He", "She", "They", "User"))


def extract(turns: Sequence[object]) -> list[Claim]:
    """Return what the turns claim, in their order. A turn has a number and a text."""
    return [claim for turn in turns if isinstance(turn, Mapping) for claim in _claims(turn)]


def _claims(turn: Mapping[str, Any]) -> Iterator[Claim]:
    text = str(turn.get("text", ""))
    found = [(match, rule) for rule in RULES for match in rule.pattern.finditer(text)]
    found = [(match, rule) for match, rule in found if rule.change != "ended" or _ends(text, match)]
    ended = {match["value"] for match, rule in found if rule.change == "ended"}
    for match, rule in sorted(found, key=lambda one: one[0].start()):
        groups = match.groupdict()
        # "I don't like … any more" says that a liking ended.
        is_end_only = rule.predicate == "dislikes" and match["value"] in ended
        if groups.get("who") not in NOT_PEOPLE and not is_end_only:
            yield _claim(turn, match, rule, groups)


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether "I don't …" goes on with "any more". What is no longer so, was sold or quit needs no such words."""
    is_verb = re.match(r"I (?:don't|do not)", match[0], re.IGNORECASE)
    return not is_verb or bool(re.match(r" any ?more", text[match.end() :], re.IGNORECASE))


def _claim(turn: Mapping[str, Any], match: re.Match[str], rule: Rule, groups: Mapping[str, str | None]) -> Claim:
    predicate = rule.predicate.format((groups.get("thing") or "").lower())
    return {
        "turn": turn.get("turn", 0),
        "quote": match[0].strip(),
        "subject": rule.subject.format(groups.get("who")),
        "predicate": predicate,
        "value": match["value"].strip(),
        "change": "correction" if groups.get("old") else rule.change,
        "replaces": (groups.get("old") or "").strip(),
        "confidence": 0.9,
        "importance": IMPORTANCE.get(predicate, 0.5),
    }
