"""What a chat is about, by the lexicon: the first clear request, weighed by how often it comes back."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from simulator.chats import Said, lines_of, request
from simulator.lexicon import (
    ACTIONS,
    FUNCTION_WORDS,
    GREETING,
    LEISURE,
    OFF_TOPIC,
    OTHER_CUES,
    OTHERS,
    TOPICS,
    UNCLEAR,
)
from simulator.phrases import Hit, Phrasebook, listed, words
from simulator.text import STOP_WORDS

STRONG, WEAK = 2.0, 0.4  # how much a cue tells of its topic
FADING = 0.4  # of what the line before weighs
FAINTEST = 0.01
LATER = 0.8  # of what is said later in the same line
CERTAIN = 1.6  # urgency of an action that is named in one phrase with its topic
USUAL = 0.3  # for a topic's usual action, heard or not
BY_BOT = 0.3  # of what the user's own words weigh, where those tell nothing
STRANGE = 0.25  # of a topic that is out of place in what the chat is about
OPENING = 2  # lines of the bot's that tell where the user is
MENU = 3  # a bot's line with more topics offers a choice
LONGEST_WORD = 30  # of a label of its own
# Words of a label that tell nothing of what it is about.
GENERIC = (
    frozenset({"question", "questions", "request", "requests", "inquiry", "issue", "problem", "about"}) | STOP_WORDS
)
FILLERS = GENERIC | {
    "please",
    "thanks",
    "thank",
    "want",
    "need",
    "help",
    "okay",
    "yeah",
    "nope",
    "sure",
    *FUNCTION_WORDS.split(),
}


@dataclass(frozen=True)
class Concept:
    """An action on a topic. `about`: the topic where the lexicon has none."""

    topic: str
    action: str = ""

    def paraphrases(self) -> tuple[str, ...]:
        """The labels that somebody may give it, the plainest first."""
        return _paraphrases(self)


@dataclass(frozen=True)
class Cue:
    topic: str = ""
    action: str = ""
    strength: float = STRONG


def _cues(text: str, topic: str, action: str = "") -> Iterable[tuple[str, Cue]]:
    for phrase in listed(text):
        yield phrase.lstrip("?"), Cue(topic, action, WEAK if phrase.startswith("?") else STRONG)


def _lexicon() -> Iterable[tuple[str, Cue]]:
    for name, action in ACTIONS.items():
        yield from _cues(action.cues, "", name)
    for name, topic in TOPICS.items():
        weak = {phrase for phrase in listed(topic.cues) if phrase.startswith("?")}
        yield from _cues(",".join((topic.cues, *(noun for noun in topic.nouns if f"?{noun}" not in weak))), name)
        for action, cues in topic.says.items():
            yield from _cues(cues, name, action)


BOOK = Phrasebook(_lexicon())
OTHER_BOOK = Phrasebook((phrase, name) for name, cues in OTHER_CUES.items() for phrase in listed(cues))


@lru_cache(maxsize=4096)
def _paraphrases(concept: Concept) -> tuple[str, ...]:
    if concept.topic in OTHERS:
        return OTHERS[concept.topic]
    if concept.topic not in TOPICS:
        return tuple(f"{concept.topic} {form}" for form in ("question", "request", "inquiry"))
    forms, nouns = ACTIONS[concept.action].labels, TOPICS[concept.topic].nouns
    return tuple(dict.fromkeys(form.format(noun) for noun in nouns for form in forms))


@lru_cache(maxsize=8192)
def label_concept(label: str) -> Concept:
    """What a label is about. One that the lexicon does not know is about its own words."""
    said = words(label.replace("_", " "))
    ranking = Ranking()
    ranking.hear(BOOK.find(said))
    if ranking.concepts():
        return ranking.concepts()[0]
    other = OTHER_BOOK.find(said)
    if other:
        return Concept(other[0].value)
    return Concept(" ".join(word for word in said if word not in GENERIC) or " ".join(said))


def session_concepts(said: Sequence[Said]) -> list[Concept]:
    """What a chat may be about, the likeliest first; never empty."""
    asked = [request(text) for text in lines_of("user", said)]
    heard = [words(text) for text in asked]
    ranking = Ranking()
    hits = [BOOK.find(line) for line in heard]
    for line in hits:
        ranking.hear(line)
    ranking.place([*hits, *(BOOK.find(words(text)) for text in lines_of("bot", said)[:OPENING])])
    if not ranking.is_clear:
        _ask_the_bot(ranking, said)
    return ranking.concepts() or [_without_topic(heard, nothing_else=not "".join(asked).strip())]


def _ask_the_bot(ranking: "Ranking", said: Sequence[Said]) -> None:
    """Its answers tell what was asked, unless they offer everything that it can do."""
    first = next((position for position, message in enumerate(said) if message.role == "user"), len(said))
    for text in lines_of("bot", said[first:]):
        hits = BOOK.find(words(text))
        if len({hit.value.topic for hit in hits if hit.value.topic}) <= MENU:
            ranking.hear(hits, BY_BOT)


def _without_topic(heard: Sequence[Sequence[str]], *, nothing_else: bool) -> Concept:
    """The word that a user repeats most; or no more than a greeting, or nothing that can be understood."""
    said = [word for line in heard for word in line]
    greeted = OTHER_BOOK.find(said)
    empty = FILLERS | {word for hit in greeted for word in said[hit.start : hit.end]}
    telling = Counter(word for word in said if 2 < len(word) <= LONGEST_WORD and word.isalpha() and word not in empty)
    if greeted and not telling:
        return Concept(GREETING)
    if nothing_else:
        return Concept(OFF_TOPIC)
    repeated = telling.most_common(1)
    return Concept(repeated[0][0]) if len(said) > 2 and repeated else Concept(UNCLEAR)


@dataclass
class Ranking:
    """Adds up what the lines tell; each line weighs less than the one before it."""

    topics: dict[str, float] = field(default_factory=dict)
    actions: dict[str, dict[str, float]] = field(default_factory=dict)
    _weight: float = 1.0
    _current: str = ""
    _waiting: list[tuple[str, float]] = field(default_factory=list)

    @property
    def is_clear(self) -> bool:
        return any(score > WEAK for score in self.topics.values())

    def hear(self, hits: Sequence[Hit[Cue]], trust: float = 1.0) -> None:
        """One line's hits, in their order."""
        named = dict.fromkeys(hit.value.topic for hit in hits if hit.value.topic)
        wanted = _wanted(hits)
        if not named:
            self._want(wanted, self._weight * trust / 2)
            return
        rank = self._weight * trust
        for topic in named:
            cues = [hit.value for hit in hits if hit.value.topic == topic]
            self.topics[topic] = self.topics.get(topic, 0) + rank * _strength(cues)
            direct = [(cue.action, CERTAIN) for cue in cues if cue.action]
            self._act(topic, _most_urgent([*self._waiting, *wanted, *direct]), rank)
            rank *= LATER
        self._waiting = []
        self._current = max(named, key=lambda topic: self.topics[topic])
        self._weight = max(self._weight * FADING, FAINTEST)

    def place(self, chat: Iterable[Sequence[Hit[Cue]]]) -> None:
        """Topics out of place in a chat count less: leisure at a phone company, contracts in a concert hall."""
        said = [
            hit.value.topic in LEISURE
            for line in chat
            for hit in line
            if hit.value.strength == STRONG and hit.value.topic
        ]
        at_leisure = sum(said) * 2 > len(said)
        for topic in self.topics:
            if (topic in LEISURE) != at_leisure:
                self.topics[topic] *= STRANGE

    def concepts(self) -> list[Concept]:
        """The topics by what was heard of them, each with its likeliest action; then the best one's other actions."""
        ranked = _by_score(self.topics)
        if not ranked:
            return []
        best = [Concept(topic, _by_score(self.actions[topic])[0]) for topic in ranked]
        return [*best, *(Concept(ranked[0], action) for action in _by_score(self.actions[ranked[0]])[1:])]

    def _want(self, wanted: Sequence[tuple[str, float]], weight: float) -> None:
        """An action without a topic belongs to the one before, or to the next where there is none yet."""
        if self._current:
            self._act(self._current, wanted, weight)
        else:
            self._waiting += wanted

    def _act(self, topic: str, wanted: Iterable[tuple[str, float]], weight: float) -> None:
        possible = TOPICS[topic].actions
        scores = self.actions.setdefault(topic, {possible[0]: USUAL})
        for action, urgency in wanted:
            if action in possible:
                scores[action] = scores.get(action, 0) + weight * urgency


def _by_score(scores: Mapping[str, float]) -> list[str]:
    """The best first; first come first among equals."""
    return sorted(scores, key=lambda name: -scores[name])


def _most_urgent(wanted: Sequence[tuple[str, float]]) -> Iterable[tuple[str, float]]:
    """Each action once."""
    return ((action, max(urgency for name, urgency in wanted if name == action)) for action in dict(wanted))


def _wanted(hits: Sequence[Hit[Cue]]) -> list[tuple[str, float]]:
    """The actions in a line, once each; the later the weaker."""
    names = dict.fromkeys(hit.value.action for hit in hits if hit.value.action and not hit.value.topic)
    heard: list[tuple[str, float]] = []
    seen: dict[int, float] = {}
    for hit in hits:
        if hit.value.action in names and not hit.value.topic:
            names.pop(hit.value.action)
            place = seen.setdefault(hit.start, LATER ** len(seen))
            heard.append((hit.value.action, ACTIONS[hit.value.action].urgency * place))
    return heard


def _strength(cues: Sequence[Cue]) -> float:
    """The strongest cue counts whole, the others a little."""
    return max(cue.strength for cue in cues) * (1 + 0.1 * min(len(cues) - 1, 3))
