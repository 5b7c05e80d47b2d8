"""Finds what a chat is about by the cues of the lexicon. Earlier lines and repeated topics weigh more."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from simulator.chats import texts_of, without_injections
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
from simulator.phrases import Hit, Phrasebook, split_phrases, words
from simulator.text import STOP_WORDS
from simulator.wire import Message

STRONG, WEAK = 2.0, 0.4  # the strength of a cue
LINE_DECAY = 0.4  # each line with a topic weighs this share of the line before
MIN_LINE_WEIGHT = 0.01
POSITION_DECAY = 0.8  # each topic or action weighs this share of the one before in the same line
PHRASE_URGENCY = 1.6  # the urgency of an action that a phrase names together with its topic
DEFAULT_ACTION_SCORE = 0.3  # the score of a topic's default action without any cue
BOT_WEIGHT = 0.3  # the weight of a bot's line; bot lines count only if the user's lines are unclear
OUT_OF_PLACE = 0.25  # the factor for a leisure topic in a chat about other things, and vice versa
OPENING_LINES = 2  # this many lines of the bot show what kind of company the chat is with
MAX_TOPICS = 3  # a bot's line with more topics is a menu
LONGEST_WORD = 30  # a longer word cannot become a topic
# Words of a label that do not say what it is about.
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
    """A topic and an action on it. If the topic is not in the lexicon, it is a word of the text and has no action."""

    topic: str
    action: str = ""

    def paraphrases(self) -> tuple[str, ...]:
        """Return the labels for it, the plainest first."""
        return _paraphrases(self)


@dataclass(frozen=True)
class Cue:
    """What a phrase of the lexicon names: a topic, an action, or both."""

    topic: str = ""
    action: str = ""
    strength: float = STRONG


def _cues(text: str, topic: str, action: str = "") -> Iterable[tuple[str, Cue]]:
    for phrase in split_phrases(text):
        yield phrase.lstrip("?"), Cue(topic, action, WEAK if phrase.startswith("?") else STRONG)


def _lexicon() -> Iterable[tuple[str, Cue]]:
    for name, action in ACTIONS.items():
        yield from _cues(action.cues, "", name)
    for name, topic in TOPICS.items():
        weak = {phrase for phrase in split_phrases(topic.cues) if phrase.startswith("?")}
        yield from _cues(",".join((topic.cues, *(noun for noun in topic.nouns if f"?{noun}" not in weak))), name)
        for action, cues in topic.action_cues.items():
            yield from _cues(cues, name, action)


BOOK = Phrasebook(_lexicon())
OTHER_BOOK = Phrasebook((phrase, name) for name, cues in OTHER_CUES.items() for phrase in split_phrases(cues))


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
    """Return what a label is about. If the lexicon does not know it, its own words are the topic."""
    label_words = words(label.replace("_", " "))
    ranking = Ranking()
    ranking.add_line(BOOK.find(label_words))
    if ranking.concepts():
        return ranking.concepts()[0]
    other = OTHER_BOOK.find(label_words)
    if other:
        return Concept(other[0].value)
    return Concept(" ".join(word for word in label_words if word not in GENERIC) or " ".join(label_words))


def session_concepts(messages: Sequence[Message]) -> list[Concept]:
    """Return what a chat may be about, the likeliest first; never empty."""
    texts = [without_injections(text) for text in texts_of("user", messages)]
    lines = [words(text) for text in texts]
    hits = [BOOK.find(line) for line in lines]
    ranking = Ranking()
    for line_hits in hits:
        ranking.add_line(line_hits)
    opening = [BOOK.find(words(text)) for text in texts_of("bot", messages)[:OPENING_LINES]]
    ranking.weigh_by_setting([*hits, *opening])
    if not ranking.is_clear:
        _add_bot_lines(ranking, messages)
    return ranking.concepts() or [_without_topic(lines, is_empty=not "".join(texts).strip())]


def _add_bot_lines(ranking: "Ranking", messages: Sequence[Message]) -> None:
    """Add the bot's answers, which show what the user wanted, but not its menus, which offer everything."""
    first = next((position for position, message in enumerate(messages) if message.role == "user"), len(messages))
    for text in texts_of("bot", messages[first:]):
        hits = BOOK.find(words(text))
        if len({hit.value.topic for hit in hits if hit.value.topic}) <= MAX_TOPICS:
            ranking.add_line(hits, BOT_WEIGHT)


def _without_topic(lines: Sequence[Sequence[str]], *, is_empty: bool) -> Concept:
    """Return the concept of a chat without a topic of the lexicon.

    It is the word that the user repeats most, or a greeting, or off topic if only injections were written (`is_empty`),
    or unclear.
    """
    text_words = [word for line in lines for word in line]
    greetings = OTHER_BOOK.find(text_words)
    ignored = FILLERS | {word for hit in greetings for word in text_words[hit.start : hit.end]}
    counts = Counter(
        word for word in text_words if 2 < len(word) <= LONGEST_WORD and word.isalpha() and word not in ignored
    )
    if greetings and not counts:
        return Concept(GREETING)
    if is_empty:
        return Concept(OFF_TOPIC)
    repeated = counts.most_common(1)
    return Concept(repeated[0][0]) if len(text_words) > 2 and repeated else Concept(UNCLEAR)


@dataclass
class Ranking:
    """Scores topics and their actions line by line. Each line weighs less than the one before."""

    topics: dict[str, float] = field(default_factory=dict)
    actions: dict[str, dict[str, float]] = field(default_factory=dict)
    _line_weight: float = 1.0
    _current_topic: str = ""
    _pending_actions: list[tuple[str, float]] = field(default_factory=list)

    @property
    def is_clear(self) -> bool:
        return any(score > WEAK for score in self.topics.values())

    def add_line(self, hits: Sequence[Hit[Cue]], weight: float = 1.0) -> None:
        """Add the hits of one line, in their order."""
        topics = dict.fromkeys(hit.value.topic for hit in hits if hit.value.topic)
        actions = _actions_without_topic(hits)
        if not topics:
            self._add_actions(actions, self._line_weight * weight / 2)
            return
        topic_weight = self._line_weight * weight
        for topic in topics:
            cues = [hit.value for hit in hits if hit.value.topic == topic]
            self.topics[topic] = self.topics.get(topic, 0) + topic_weight * _strength(cues)
            direct = [(cue.action, PHRASE_URGENCY) for cue in cues if cue.action]
            self._score_actions(topic, _most_urgent([*self._pending_actions, *actions, *direct]), topic_weight)
            topic_weight *= POSITION_DECAY
        self._pending_actions = []
        self._current_topic = max(topics, key=lambda topic: self.topics[topic])
        self._line_weight = max(self._line_weight * LINE_DECAY, MIN_LINE_WEIGHT)

    def weigh_by_setting(self, lines: Iterable[Sequence[Hit[Cue]]]) -> None:
        """Reduce topics that are out of place: leisure at a phone company, contracts in a concert hall."""
        are_leisure = [
            hit.value.topic in LEISURE
            for hits in lines
            for hit in hits
            if hit.value.strength == STRONG and hit.value.topic
        ]
        is_leisure = sum(are_leisure) * 2 > len(are_leisure)
        for topic in self.topics:
            if (topic in LEISURE) != is_leisure:
                self.topics[topic] *= OUT_OF_PLACE

    def concepts(self) -> list[Concept]:
        """Return the topics by score, each with its likeliest action, then the other actions of the first topic."""
        ranked = _by_score(self.topics)
        if not ranked:
            return []
        best = [Concept(topic, _by_score(self.actions[topic])[0]) for topic in ranked]
        return [*best, *(Concept(ranked[0], action) for action in _by_score(self.actions[ranked[0]])[1:])]

    def _add_actions(self, actions: Sequence[tuple[str, float]], weight: float) -> None:
        """Add the actions of a line without a topic to the topic before, or keep them for the first one."""
        if self._current_topic:
            self._score_actions(self._current_topic, actions, weight)
        else:
            self._pending_actions += actions

    def _score_actions(self, topic: str, actions: Iterable[tuple[str, float]], weight: float) -> None:
        possible = TOPICS[topic].actions
        scores = self.actions.setdefault(topic, {possible[0]: DEFAULT_ACTION_SCORE})
        for action, urgency in actions:
            if action in possible:
                scores[action] = scores.get(action, 0) + weight * urgency


def _by_score(scores: Mapping[str, float]) -> list[str]:
    """Return the names by score, highest first. Equal scores keep their order."""
    return sorted(scores, key=lambda name: -scores[name])


def _most_urgent(actions: Sequence[tuple[str, float]]) -> Iterable[tuple[str, float]]:
    """Yield each action once, with its highest urgency."""
    return ((action, max(urgency for name, urgency in actions if name == action)) for action in dict(actions))


def _actions_without_topic(hits: Sequence[Hit[Cue]]) -> list[tuple[str, float]]:
    """Return the actions of a line whose cues name no topic, once each, with their urgency. Later ones weigh less."""
    names = dict.fromkeys(hit.value.action for hit in hits if hit.value.action and not hit.value.topic)
    found: list[tuple[str, float]] = []
    weights: dict[int, float] = {}  # by position in the line: several actions may share a cue
    for hit in hits:
        if hit.value.action in names and not hit.value.topic:
            names.pop(hit.value.action)
            weight = weights.setdefault(hit.start, POSITION_DECAY ** len(weights))
            found.append((hit.value.action, ACTIONS[hit.value.action].urgency * weight))
    return found


def _strength(cues: Sequence[Cue]) -> float:
    """Return the strength of the strongest cue, plus 10% for each further one, up to 30%."""
    return max(cue.strength for cue in cues) * (1 + 0.1 * min(len(cues) - 1, 3))
