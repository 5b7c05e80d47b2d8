"""Answers a question about the user from what the prompt says, as a careful reader does. It knows nothing else.

Later statements replace earlier ones. A record that a program put into the prompt counts as said at its place. So
the last word of a prompt prevails, unless the record says that the messages above it are right where the two differ.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

About = tuple[str, str]

LEAD = re.compile(
    r"^(?:[-*] |user: |summary: |by the way,? |actually,? |well,? |no,? |note that |correction: |oh,? |also,? )+",
    re.IGNORECASE,
)
VALUE = r"(?P<value>(?!it\b)[\w'’]+(?: [\w'’]+){0,3}?)"
# What may follow a value, until the end of the sentence.
TAIL = (
    r"(?:,? (?:you know|these days|as well|now|by the way|any ?more|last (?:week|month|year)|to be honest|so be careful"
    r"|too|at the moment|of all|a lot))*(?:,? (?:and )?not (?P<old>[\w ]+))?[.!]*$"
)
SOON = r"(?:now |currently |still |really |just |recently |actually )*"
RELATIVE = r"(?P<who>(?:best )?friend(?: \w+)?|brother|sister|mother|boss|neighbour|dog)"
SPEAKS = rf"(?:(?P<self>I|we)|my {RELATIVE})"
IS = r"(?:'m|'re|am|are|is)"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(f"^{text}{TAIL}", re.IGNORECASE)


# Statements of a value, and of the end of one, by predicate.
STATED = {
    "lives in": (
        rf"{SPEAKS} {SOON}(?:lives? in|moved to) {VALUE}",
        rf"{SPEAKS} ?{IS} {SOON}(?:living in|based in|at home in) {VALUE}",
        rf"(?P<self>{VALUE} is where I am at home)",
        rf"(?P<self>(?:my )?home is) {SOON}{VALUE}",
        rf"{SPEAKS} no longer lives? in (?:\w+)[,:;] (?:I|we) (?:live in|moved to) {VALUE}",
        rf"{SPEAKS} don't live in (?:\w+) any ?more[,:;] (?:I|we) (?:live in|moved to) {VALUE}",
    ),
    "works as": (
        rf"{SPEAKS} {SOON}(?:works? as|started as) (?:an? )?{VALUE}",
        rf"(?P<self>for a living I am) an? {VALUE}",
        rf"(?P<self>I earn my money) as an? {VALUE}",
    ),
    "works at": (
        rf"{SPEAKS} {SOON}(?:works? (?:at|for)|started at) {VALUE}",
        rf"(?P<self>my employer is) {SOON}{VALUE}",
        rf"(?P<self>I) quit my job at (?:\w+) and started at {VALUE}",
    ),
    "likes": (rf"{SPEAKS} {SOON}(?:likes?|loves?|enjoys?) {VALUE}", rf"(?P<self>I'm a great fan of) {VALUE}"),
    "dislikes": (rf"{SPEAKS} {SOON}(?:hates?|dislikes?|can't stand) {VALUE}",),
    "is allergic to": (rf"{SPEAKS} ?{IS} {SOON}allergic to {VALUE}",),
    "has favorite color": (
        rf"(?P<self>my favou?rite colou?r is) {SOON}{VALUE}",
        rf"(?P<self>no colou?r is better than) {VALUE}",
        rf"{SPEAKS} has favou?rite colou?r {VALUE}",
    ),
    "is named": (rf"my {RELATIVE}(?:'s name is| is called| is named) {VALUE}", rf"our {RELATIVE} answers to {VALUE}"),
    "is aged": (rf"{SPEAKS} ?{IS} (?:aged )?(?P<value>\d+)(?: years old)?", rf"{SPEAKS} turned (?P<value>\d+)"),
}
ENDED = {
    "likes": (
        rf"{SPEAKS} (?:no longer|don't) (?:likes?|enjoys?) {VALUE}",
        rf"{SPEAKS} have gone off {VALUE}",
    ),
}
# Of which a subject has any number of values.
SEVERAL = frozenset(("likes", "dislikes", "is allergic to"))
PATTERNS = [
    (predicate, _pattern(text), has_ended)
    for has_ended, listed in ((False, STATED), (True, ENDED))
    for predicate, texts in listed.items()
    for text in texts
]
OF_MINE = r"(?:my|our) (?P<who>best friend|friend|brother|sister|mother|boss|dog)"
ASKED = {
    "lives in": (
        rf"\bwhere does {OF_MINE} live\b",
        rf"\bcity is {OF_MINE} at home in\b",
        r"\bcity do I live in\b",
        r"\bwhere is my home\b",
    ),
    "works as": (
        rf"\bwhat does {OF_MINE} work as\b",
        rf"\bwhat is the profession of {OF_MINE}",
        r"\bis my profession\b",
        r"\bdo I work as\b",
    ),
    "works at": (r"\bwho is my employer\b", r"\bcompany do I work (?:at|for)\b"),
    "likes": (r"\b(?:what|which things) do I (?:like|enjoy)\b", r"\bgives me pleasure\b"),
    "dislikes": (r"\bwhat do I hate\b", r"\bwhat annoys me\b"),
    "is allergic to": (r"\bam I allergic to\b", r"\bfood would make me ill\b"),
    "has favorite color": (r"\bis my favou?rite colou?r\b", r"\bcolou?r should my new bike have\b"),
    "is named": (rf"\b(?:how is|what do I call) {OF_MINE}\b",),
    "is aged": (rf"\bhow old is {OF_MINE}\b", r"\bhow old am I\b", r"\bwhat is my age\b"),
}
QUESTIONS = [(re.compile(text, re.IGNORECASE), predicate) for predicate, texts in ASKED.items() for text in texts]
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
MESSAGES_ARE_RIGHT = re.compile(r"\bmessages above\b[^.]*\bare right\b", re.IGNORECASE)
SUBJECT = re.compile(r"^the user(?P<of>'s)? ", re.IGNORECASE)


@dataclass(frozen=True)
class Record:
    """A record in a prompt, with the line that introduces it."""

    introduction: str
    said: str


def asked_about(question: str) -> About | None:
    """Return whose fact a question asks for, and the predicate; None if it asks for none."""
    for pattern, predicate in QUESTIONS:
        if match := pattern.search(question):
            return match.groupdict().get("who", "user").lower(), predicate
    return None


def recalled(said: Sequence[str | Record], about: About) -> list[str]:
    """Return the values that the texts of a prompt give for what is asked, in order. Empty: they say nothing of it."""
    subject, predicate = about
    values: list[str] = []
    for stated_subject, stated_predicate, value, has_ended, old in _statements(_in_order(said)):
        if (stated_subject, stated_predicate) != (subject, predicate):
            continue
        gone = {value.lower(), old.lower()}
        values = [one for one in values if one.lower() not in gone] if predicate in SEVERAL else []
        values += [] if has_ended else [value]
    return values


def _in_order(said: Sequence[str | Record]) -> Iterator[str]:
    """The texts, the earliest first. A record that is older than the messages above it comes before them."""
    last = [one for one in said if isinstance(one, Record) and not MESSAGES_ARE_RIGHT.search(one.introduction)]
    older = [one for one in said if isinstance(one, Record) and one not in last]
    first = [one for one in said[:1] if one in last]
    for one in (*first, *older, *(one for one in said if one not in first and one not in older)):
        yield one.said if isinstance(one, Record) else one


def _statements(texts: Iterable[str]) -> Iterator[tuple[str, str, str, bool, str]]:
    """Yield subject, predicate, value, whether it ended, and the value that is corrected."""
    for text in texts:
        for part in SENTENCE.split(text):
            yield from _stated(_plain(part))


def _plain(sentence: str) -> str:
    """Return a sentence without what leads to it; that of a record in the words of the user."""
    sentence = LEAD.sub("", sentence.strip())
    return SUBJECT.sub(lambda match: "my " if match["of"] else "I ", sentence)


def _stated(sentence: str) -> Iterator[tuple[str, str, str, bool, str]]:
    if "?" in sentence:
        return
    for predicate, pattern, has_ended in PATTERNS:
        if match := pattern.match(sentence):
            groups = match.groupdict()
            who = groups.get("who")
            subject = " ".join(who.lower().split()[: 2 if who.lower().startswith("best") else 1]) if who else "user"
            yield subject, predicate, match["value"], has_ended, (groups.get("old") or "").strip()
            return
