"""How alike texts are by their words. No model is needed, and every worker finds the same neighbours.

A text is a vector of its terms, weighted by how rare they are among all texts; the likeness of two texts is the cosine
of their vectors, from 0 to 1. A term is a word, the beginning of a long word, so that "declined" and "declines" share
one, or two characters of a script that has no blanks between words.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import pairwise, zip_longest
from math import log, sqrt
from operator import neg

# One term for each character of scripts without blanks, and one for each word of others.
WORDS = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['’][^\W_]+)?")
STEM, LONG = 4, 6
# Shorter words with one character more or less are other words, and so are those of two characters that are exchanged.
SHORTEST_SLIP, SHORTEST_EXCHANGE = 4, 3
# A term of more texts than this share says nothing. Of a few texts, each term is worth something.
COMMON_SHARE, FEW_TEXTS = 0.5, 8
Vector = Mapping[str, float]


def _words(text: str) -> list[str]:
    return WORDS.findall(text.lower())


def terms(text: str) -> Iterator[str]:
    """The terms of a text."""
    return _terms(_words(text))


def _terms(words: Sequence[str]) -> Iterator[str]:
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        yield word
        if len(word) >= LONG:
            yield f"{word[:STEM]}…"
        if len(word) == 1 and len(following) == 1 and not word.isascii():
            yield word + following


class Spelling:
    """Finds the word that is meant where the keyboard slipped.

    A slip exchanges two neighbouring characters, of which one may be the blank between two words, adds one or omits
    one. A word that no more than one text has, and that is one slip from a word of several texts, is taken for it; for
    the most frequent one, if there are more. Of two words that one text has each, the first by the alphabet is meant.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        of_texts = [_words(text) for text in texts]
        self._counted = _counted(of_texts)
        # Words whose blank slipped are none.
        self._counted = counted = _counted([self._with_blanks(words) for words in of_texts])
        self._meant: dict[str, str] = {}
        for word in sorted(filter(self._is_usual, counted), key=lambda word: (-counted[word], word)):
            for slip in _slips(word):
                self._meant.setdefault(slip, word)
        rare = {word for word, count in counted.items() if count == 1 and len(word) >= SHORTEST_SLIP}
        for word in sorted(rare):
            if self._of(word) == word:
                self._meant |= {slip: word for slip in _slips(word) if slip in rare and slip not in self._meant}

    def terms(self, text: str) -> Iterator[str]:
        """The terms of a text, with the words that are meant."""
        words = self._with_blanks(_words(text))
        return _terms([word if self._is_usual(word) else self._of(word) for word in words])

    def _is_usual(self, word: str) -> bool:
        return self._counted[word] > 1

    def _with_blanks(self, words: list[str]) -> list[str]:
        """The words, with blanks in their places: "wasc harged" is "was charged", if texts have these words."""
        for at, (one, other) in enumerate(pairwise(words)):
            if self._is_usual(one) and self._is_usual(other):
                continue
            slips = (one[:-1], one[-1] + other), (one + other[0], other[1:])
            known = [pair for pair in slips if self._counted.keys() >= {*pair}]
            # Where one text has each, both are read in one way.
            meant = max([(one, other), *known], key=lambda pair: (sum(self._counted[word] for word in pair), pair))
            if meant != (one, other):
                return [*words[:at], *meant, *self._with_blanks(words[at + 2 :])]
        return words

    def _of(self, word: str) -> str:
        if word in self._meant:
            return self._meant[word]
        # An added character may be any: without it, the word is a usual one.
        meant = (form for form in _omissions(word) if self._is_usual(form) and len(form) >= SHORTEST_SLIP)
        return next(meant, word) if word.isalpha() else word


def _counted(of_texts: Sequence[Sequence[str]]) -> Counter[str]:
    """How many texts have each word."""
    return Counter(word for words in of_texts for word in {*words})


def _slips(word: str) -> Iterator[str]:
    """The word with two neighbouring characters exchanged, and without one of them, if it is long enough."""
    if not word.isalpha():
        return
    if len(word) >= SHORTEST_EXCHANGE:
        yield from (word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(len(word) - 1))
    if len(word) >= SHORTEST_SLIP:
        yield from _omissions(word)


def _omissions(word: str) -> Iterator[str]:
    return (word[:at] + word[at + 1 :] for at in range(len(word)))


class Likeness:
    """Compares texts by name with each other, and with further texts.

    Args:
        texts: the texts by name. Their order decides between equally near ones.
        terms_of: the terms of a text.
    """

    def __init__(self, texts: Mapping[str, str], terms_of: Callable[[str], Iterator[str]] = terms) -> None:
        self._terms = terms_of
        counted = {name: Counter(terms_of(text)) for name, text in texts.items()}
        found_in = Counter(term for counts in counted.values() for term in counts)
        most = max(len(texts) * COMMON_SHARE, FEW_TEXTS)
        self._rarity = {term: log(1 + len(texts) / count) if count <= most else 0.0 for term, count in found_in.items()}
        self._rarest = log(1 + len(texts))
        self._vectors = {name: self._vector(counts) for name, counts in counted.items()}
        self._names = [*texts]
        self._holders: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, name in enumerate(self._names):
            for term, weight in self._vectors[name].items():
                self._holders[term].append((place, weight))

    def of(self, one: str, other: str) -> float:
        """The likeness of two of the texts."""
        return cosine(self._vectors[one], self._vectors[other])

    def vector(self, text: str) -> Vector:
        """The vector of a further text. Terms that no text has do not count."""
        return self._vector(Counter(self._terms(text)))

    def nearest(self, text: str, count: int) -> list[tuple[str, float]]:
        """The names of the most alike texts with their likeness above 0, the most alike first."""
        return self._nearest(self.vector(text), count)

    def near_copies(self, text: str, least: float) -> list[tuple[str, float]]:
        """The names of all texts with at least this likeness, the most alike first.

        Terms that no text has count too, as differences.
        """
        vector = self._vector(Counter(self._terms(text)), self._rarest)
        places = {place for term in _telling(vector, least) for place, _ in self._holders.get(term, ())}
        found = [(self._names[place], cosine(vector, self._vectors[self._names[place]])) for place in sorted(places)]
        return sorted((one for one in found if one[1] >= least), key=lambda one: -one[1])

    def neighbours(self, name: str, count: int) -> list[tuple[str, float]]:
        """The texts that are most alike to one of them, without itself."""
        return [found for found in self._nearest(self._vectors[name], count + 1) if found[0] != name][:count]

    def _nearest(self, vector: Vector, count: int) -> list[tuple[str, float]]:
        sums: defaultdict[int, float] = defaultdict(float)
        for term, weight in vector.items():
            for place, held in self._holders.get(term, ()):
                sums[place] += weight * held
        # Of thousands of texts only a few are wanted: this takes a third less time than to sort them all.
        ranked = nlargest(count, zip(sums.values(), map(neg, sums), strict=True))
        return [(self._names[-place], likeness) for likeness, place in ranked]

    def _vector(self, counts: Counter[str], unknown: float = 0.0) -> dict[str, float]:
        """The vector of counted terms. `unknown`: the weight of a term that no text has."""
        rarity = {term: self._rarity.get(term, unknown) for term in counts}
        weights = {term: (1 + log(count)) * rarity[term] for term, count in counts.items() if rarity[term]}
        length = sqrt(sum(weight**2 for weight in weights.values()))
        return {term: weight / length for term, weight in weights.items()}


def cosine(one: Vector, other: Vector) -> float:
    """The likeness of two vectors of length 1."""
    small, large = sorted((one, other), key=len)
    return sum(weight * large.get(term, 0.0) for term, weight in small.items())


def _telling(vector: Vector, least: float) -> Iterator[str]:
    """The terms of most weight. A text without any of them has less than the least likeness, whatever else it has."""
    left = 1.0
    for term, weight in sorted(vector.items(), key=lambda one: -one[1]):
        if left < least**2:
            return
        yield term
        left -= weight**2


def central(texts: Sequence[str], count: int) -> list[str]:
    """The texts that are most alike to all of them, without repetitions: those that stand for all best."""
    distinct = [*dict.fromkeys(texts)]
    if len(distinct) <= count:
        return distinct
    compared = Likeness({str(place): text for place, text in enumerate(texts)})
    vectors = [compared.vector(text) for text in distinct]
    weights = Counter(texts)
    middle: defaultdict[str, float] = defaultdict(float)
    for text, vector in zip(distinct, vectors, strict=True):
        for term, weight in vector.items():
            middle[term] += weight * weights[text]
    near = {text: cosine(vector, middle) for text, vector in zip(distinct, vectors, strict=True)}
    return sorted(distinct, key=lambda text: -near[text])[:count]
