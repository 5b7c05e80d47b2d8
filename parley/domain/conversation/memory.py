"""What is remembered of a user: facts with a validity. A newer fact supersedes one that it contradicts.

A fact that is superseded keeps its row: its validity ends. What a user asked to forget keeps no content.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID, uuid5

from pydantic import AwareDatetime, Field
from rapidfuzz import fuzz

from parley.domain.errors import InvalidInput
from parley.domain.model import UNSTORABLE, Model, is_blank
from parley.domain.requests import request_id
from parley.domain.routing import Candidate

USER = "user"
SELF = frozenset(("i", "me", "my", "myself", "user", "the user", "speaker", "the speaker", "customer", "the customer"))
SUBJECT_CHARACTERS, PREDICATE_CHARACTERS, VALUE_CHARACTERS = 80, 60, 200
# Of one person at a time: another value supersedes. Each has the wordings that mean the same.
SINGLE_VALUED = {
    "lives_in": "lives resides_in is_based_in based_in moved_to has_moved_to is_living_in lives_at is_located_in"
    " residence has_residence location city home_city has_city now_lives_in",
    "is_named": "name has_name is_called goes_by first_name name_is is_known_as",
    "is_aged": "age has_age is_years_old years_old is_age",
    "has_birthday": "birthday is_born_on born_on was_born_on birth_date date_of_birth has_birth_date",
    "was_born_in": "born_in is_born_in birthplace has_birthplace comes_from is_from",
    "works_as": "job has_job occupation has_occupation profession has_profession job_title has_job_title works_as_a",
    "works_at": "works_for employer has_employer is_employed_by is_employed_at company workplace",
    "is_married_to": "spouse has_spouse husband has_husband wife has_wife married_to",
    "has_marital_status": "marital_status is_married_status",
    "has_email": "email email_address has_email_address",
    "has_phone_number": "phone phone_number has_phone",
    "has_time_zone": "time_zone timezone has_timezone",
    "prefers_language": "preferred_language language_preference has_preferred_language prefers_to_speak",
}
SINGLE_VALUED_PREFIXES = ("has_favorite_", "prefers_")
# Any number of values at a time.
MULTI_VALUED = {
    "likes": "loves enjoys is_fond_of is_into likes_to loves_to enjoys_to is_a_fan_of",
    "dislikes": "hates does_not_like does_not_enjoy does_not_love is_not_fond_of cannot_stand",
    "owns": "has_pet keeps possesses",
    "is_allergic_to": "allergic_to has_allergy has_allergy_to allergy allergies",
    "speaks": "speaks_language",
    "has_child": "child has_son has_daughter",
    "has_hobby": "hobby hobbies",
}
CANONICAL = {
    wording: canonical
    for canonical, wordings in (SINGLE_VALUED | MULTI_VALUED).items()
    for wording in (canonical, *wordings.split())
}
# A predicate that says the contrary of another: of `likes`, `eats`, `is_…`, `has_…`.
CONTRARY = {"dislikes": "likes"}
NEGATIONS = {"does_not_": "{}s", "do_not_": "{}s", "is_not_": "is_{}", "has_no_": "has_{}"}
ARTICLE = re.compile(r"^(?:an?|the|my|our|his|her|their|some)\s+")
OWNED = re.compile(r"^(?:the )?(?:users?'s?|my)\s+(.+)$")
OF_USER = re.compile(r"^(?:the )?(.+) of (?:the user|me)$")

# At most so many memories are beside the text of a turn.
MOST_RECALLED = 5
# The weights of `rank`, which add up to 1.
RELEVANCE_WEIGHT, RECENCY_WEIGHT, IMPORTANCE_WEIGHT = 0.7, 0.15, 0.15
RECENCY_HALF_LIFE_DAYS = 90.0
# A memory below it would only cost tokens. Chosen with benchmarks/memory.py: at 0.2 half of the facts that are asked
# for in other words are not found, and at 0 every turn has five memories.
LEAST_RELEVANCE = 0.1
SAME_WORD_PERCENT = 80
WORD = re.compile(r"\w+")
STOP_WORDS = frozenset(
    WORD.findall(
        "a about an and are as at be can could did do does for from had has have he her his how i in is it me my of on"
        " or our please she so tell that the their them then there they this to user was we were what when where which"
        " who why will with would you your"
    )
)
SECONDS_PER_DAY = 86400.0


class Change(StrEnum):
    """What a statement does to what was known: a new fact, the correction of one, or the end of one."""

    NEW = "new"
    CORRECTION = "correction"
    ENDED = "ended"


class Fact(Model):
    """One claim in a turn of the user, as it was extracted.

    subject: `user`, or another person or thing, for example `user's brother`.
    predicate: what is said of the subject, for example `lives_in`. value: in the words of the turn.
    replaces: of a correction, the value that was wrong; empty if the turn does not say it.
    confidence, importance: from 0 to 1. stated_at: the time of the turn.
    """

    subject: str
    predicate: str
    value: str
    change: Change = Change.NEW
    replaces: str = ""
    confidence: float = Field(default=1, ge=0, le=1)
    importance: float = Field(default=0.5, ge=0, le=1)
    turn_id: str
    stated_at: AwareDatetime


class Memory(Model):
    """A fact about a user or about what the user knows.

    conversation_id, turn_id: where it was said; both are empty for what was corrected by hand.
    valid_until: when it was superseded or ended; None while it is valid.
    """

    id: UUID
    subject: str
    predicate: str
    value: str
    confidence: float
    importance: float
    conversation_id: str = ""
    turn_id: str = ""
    valid_from: AwareDatetime
    valid_until: AwareDatetime | None = None

    @property
    def text(self) -> str:
        """The fact as one line for a prompt, for example `The user's brother lives in Oslo`."""
        subject = f"The {self.subject}" if self.subject.startswith(USER) else self.subject
        return one_plain_line(f"{subject} {self._said}")

    @property
    def topic(self) -> str:
        """What the vector is of. The words "the user" would make all memories alike."""
        subject = "" if self.subject == USER else self.subject.removeprefix(f"{USER}'s ")
        return one_plain_line(f"{subject} {self._said}")

    @property
    def _said(self) -> str:
        return f"{self.predicate.replace('_', ' ')} {self.value}"


class Changes(Model):
    """What facts change: memories to add, and those whose validity ends, with the time."""

    added: tuple[Memory, ...] = ()
    ended: tuple[tuple[UUID, AwareDatetime], ...] = ()


class RememberStep(Model):
    """Extract facts from turns of a conversation, by one paid request under `job_key`."""

    workspace_id: str
    user_id: str
    conversation_id: str
    turn_ids: tuple[str, ...]
    action: str
    candidate: Candidate
    job_key: str
    workflow_id: str

    @property
    def request_id(self) -> str:
        """The id of the paid request: of these turns, whose ids are a caller's text of any length."""
        turns = json.dumps([self.conversation_id, *self.turn_ids])
        return request_id(self.job_key, "remember", hashlib.sha256(turns.encode()).hexdigest()[:16])


class RememberOutcome(Model):
    """What an extraction did: memories that were added or ended, claims that were dropped, and its cost in USD.

    problem: why the reply could not be read; empty if it could.
    """

    memories: int = 0
    ended: int = 0
    dropped: int = 0
    problem: str = ""
    cost_usd: Decimal = Decimal(0)


class Found(Model):
    """A memory with its similarity to a text, from 0 to 1; None where it has no vector yet."""

    memory: Memory
    similarity: float | None = None


def checked_value(value: str) -> str:
    """The value of a correction.

    Raises:
        InvalidInput: it is blank, too long, or not text that can be stored.
    """
    if is_blank(value) or UNSTORABLE.search(value) or len(value) > VALUE_CHARACTERS:
        raise InvalidInput(f"must be text of 1 to {VALUE_CHARACTERS} characters", where="value")
    return one_plain_line(value)


def one_plain_line(text: str) -> str:
    """The text on one line, without brackets that could close a tag of a prompt."""
    return " ".join(text.replace("<", "‹").replace(">", "›").split())


def subject_of(text: str) -> str:
    """The subject in the form that is compared: `user`, `user's …`, or the name as it was given."""
    plain = " ".join(text.replace("’", "'").replace("_", " ").split())
    low = plain.casefold()
    if low in SELF:
        return USER
    if owned := OWNED.match(low) or OF_USER.match(low):
        return f"{USER}'s {owned[1]}"
    return plain


def predicate_of(text: str) -> tuple[str, bool]:
    """The predicate in its canonical wording, and whether the text says that it ended: `no longer lives in`."""
    spelled = text.casefold().replace("favourite", "favorite").replace("n't", "_not")
    words = "_".join(WORD.findall(spelled)).strip("_")
    plain = words.removeprefix("no_longer_")
    wording = f"has_{plain}" if plain.startswith("favorite_") else plain
    return CANONICAL.get(wording, wording), plain != words


def is_single_valued(predicate: str) -> bool:
    """Whether a subject has one value of it at a time."""
    return predicate in SINGLE_VALUED or predicate.startswith(SINGLE_VALUED_PREFIXES)


def changes_of(facts: Iterable[Fact], known: Iterable[Memory], *, conversation_id: str, source: UUID) -> Changes:
    """What facts change in the valid memories of their user, one fact after the other.

    A contradicted memory ends at the time of the turn that contradicts it. A fact that is known changes nothing. A
    fact that is older than the memory that contradicts it is added with its end.

    source: the attempt whose reply has the facts. The ids of new memories follow from it, so that a repetition has
        the same ones.
    """
    valid = {memory.id: memory for memory in known if memory.valid_until is None}
    added: dict[UUID, Memory] = {}
    ended: dict[UUID, datetime] = {}
    for number, fact in enumerate(facts):
        stated = _memory_of(fact, uuid5(source, str(number)), conversation_id)
        later = [memory.valid_from for memory in valid.values() if _is_contradicted(memory, fact, stated, later=True)]
        for memory in [*valid.values()]:
            if _is_contradicted(memory, fact, stated, later=False):
                ended[memory.id] = stated.valid_from
                del valid[memory.id]
        if fact.change is Change.ENDED or any(_says_same(memory, stated) for memory in valid.values()):
            continue
        added[stated.id] = stated.model_copy(update={"valid_until": min(later)}) if later else stated
        if not later:
            valid[stated.id] = stated
    return Changes(
        added=tuple(
            one.model_copy(update={"valid_until": ended.get(id_, one.valid_until)}) for id_, one in added.items()
        ),
        ended=tuple((id_, when) for id_, when in ended.items() if id_ not in added),
    )


def _memory_of(fact: Fact, memory_id: UUID, conversation_id: str) -> Memory:
    return Memory(
        id=memory_id,
        subject=subject_of(fact.subject),
        predicate=predicate_of(fact.predicate)[0],
        value=one_plain_line(fact.value),
        confidence=fact.confidence,
        importance=fact.importance,
        conversation_id=conversation_id,
        turn_id=fact.turn_id,
        valid_from=fact.stated_at,
    )


def _is_contradicted(memory: Memory, fact: Fact, stated: Memory, *, later: bool) -> bool:
    """Whether a memory and a statement cannot both be valid. `later`: whether the memory is the later one."""
    if (memory.valid_from > stated.valid_from) is not later or _about(memory) != _about(stated):
        return False
    is_same, is_contrary = _same_value(memory, stated.value), _is_negative(memory) is not _is_negative(stated)
    if is_contrary:
        return is_same and fact.change is not Change.ENDED
    if fact.change is Change.ENDED:
        return is_same or not stated.value
    corrects = fact.change is Change.CORRECTION and bool(fact.replaces) and _same_value(memory, fact.replaces)
    return not is_same and (corrects or is_single_valued(stated.predicate))


def _says_same(memory: Memory, stated: Memory) -> bool:
    alike = _about(memory) == _about(stated) and _is_negative(memory) is _is_negative(stated)
    return alike and _same_value(memory, stated.value)


def _about(memory: Memory) -> tuple[str, str]:
    """The subject and the positive predicate: what contradicts each other has the same."""
    return memory.subject.casefold(), _positive(memory.predicate)


def _is_negative(memory: Memory) -> bool:
    return _positive(memory.predicate) != memory.predicate


def _positive(predicate: str) -> str:
    """The predicate without its negation: `does_not_eat` is about `eats`."""
    for negation, positive in NEGATIONS.items():
        if predicate.startswith(negation):
            verb, *rest = predicate.removeprefix(negation).split("_")
            return "_".join((positive.format(verb), *rest))
    return CONTRARY.get(predicate, predicate)


def _same_value(memory: Memory, value: str) -> bool:
    return _plain(memory.value) == _plain(value)


def _plain(value: str) -> str:
    return " ".join(WORD.findall(ARTICLE.sub("", value.casefold().strip())))


def rank(text: str, found: Iterable[Found], now: datetime, limit: int) -> tuple[Memory, ...]:
    """The memories that are most worth their tokens beside a text, the best first.

    score = 0.7 relevance + 0.15 recency + 0.15 importance. Relevance is the cosine of the vectors, or what the words
    have in common if that is more: names are seldom known to a model of vectors. Recency halves in 90 days. The three
    terms are those of Park et al., "Generative Agents" (2023), which weighs them equally; here relevance prevails,
    because a memory that has nothing to do with the text costs tokens and misleads. What is below a relevance of 0.1
    is left out.
    """
    relevant = [(_relevance(text, one), one.memory) for one in found]
    scored = [
        (_score(relevance, memory, now), memory) for relevance, memory in relevant if relevance >= LEAST_RELEVANCE
    ]
    best = sorted(scored, key=lambda one: (-one[0], one[1].id))
    return tuple(memory for _, memory in best[:limit])


def _score(relevance: float, memory: Memory, now: datetime) -> float:
    days = max((now - memory.valid_from).total_seconds() / SECONDS_PER_DAY, 0)
    recency = 0.5 ** (days / RECENCY_HALF_LIFE_DAYS)
    return RELEVANCE_WEIGHT * relevance + RECENCY_WEIGHT * recency + IMPORTANCE_WEIGHT * memory.importance


def _relevance(text: str, found: Found) -> float:
    return max(found.similarity or 0, word_similarity(text, found.memory.text))


def word_similarity(one: str, other: str) -> float:
    """From 0 to 1: the cosine of two texts' sets of words, without the most frequent ones; endings may differ."""
    first, second = _content_words(one), _content_words(other)
    if not first or not second:
        return 0
    same = sum(any(_is_same_word(word, candidate) for candidate in first) for word in second)
    return same / (len(first) * len(second)) ** 0.5


def _content_words(text: str) -> list[str]:
    return [*dict.fromkeys(word for word in WORD.findall(text.casefold()) if word not in STOP_WORDS)]


def _is_same_word(one: str, other: str) -> bool:
    return one == other or (one[:3] == other[:3] and fuzz.ratio(one, other) >= SAME_WORD_PERCENT)
