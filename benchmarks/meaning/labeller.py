"""Answers the prompts of a labelling run by the similarity of sentence embeddings, with noise.

It knows what a prompt says and nothing else: a label is its name and, where the prompt has them, its definition and
examples. A session takes the label that it resembles most, if it resembles it enough; else it gets a new one, which is
the phrase of the user that resembles the session most. Each prompt has noise of its own, so that one session may be
labelled in two ways by two requests, as models do.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from random import Random  # noqa: TID251 - the noise is random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Embed = Callable[[str], Sequence[float]]

# A similarity at which half of the decisions are "the same", and the similarity that makes a decision sure.
SESSION_TO_NAME, SESSION_TO_TEXT = (0.42, 0.12), (0.52, 0.12)
NAME_TO_NAME, TEXTS_TO_TEXTS = (0.58, 0.12), (0.50, 0.10)
# What the words of a label count beside its examples.
NAME_SHARE = 0.35
NOISE = 0.35
# What "clearly better" means.
CLEARLY = 0.75
USER_LINES = 3
PHRASE_WORDS = (2, 3)
QUOTE_WORDS = 12
MOST_PHRASES = 24
VARIED = 0.15
WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")
STOP = frozenset(
    """a about all am an and any are as at be been but by can could did do does for from get give got had has have hello
    hey hi how i i'd i'll i'm i've if in is it it's its just know let like ll make me my need no not now of ok okay on
    or please really s see should so some t tell thank thanks that that's the their them then there they this to too up
    us want was we well were what what's when where which while who why will with would yes you your""".split()  # noqa: SIM905
)


class Shown(NamedTuple):
    """A label as a prompt shows it."""

    name: str
    texts: tuple[str, ...] = ()


class Labeller:
    """`embed`: the vector of length 1 of a text. `seed`: of the noise."""

    def __init__(self, embed: Embed, seed: int = 7, noise: float = NOISE) -> None:
        self._embed, self._seed, self._noise = embed, seed, noise
        self._vectors: dict[str, Vector] = {}

    def answer(self, system: str, user: str) -> dict[str, Any]:
        """The reply to a prompt of a labelling run."""
        del system
        given = json.loads(user)
        chance = Random(hashlib.sha256(f"{self._seed}:{user}".encode()).digest())
        if "known_labels" in given:
            return {"sessions": self._label(given, chance)}
        if "labels" in given and "sessions" in given:
            return {"sessions": self._choose(given, chance)}
        if "labels" in given:
            return {"groups": self._group(given, chance)}
        return {"summary": given.get("transcript", "")[:300]}

    def vector(self, text: str) -> Vector:
        if text not in self._vectors:
            self._vectors[text] = np.array(self._embed(text))
        return self._vectors[text]

    def _centre(self, texts: Sequence[str]) -> Vector:
        mean = np.mean([self.vector(text) for text in texts], axis=0)
        return mean / np.linalg.norm(mean)

    # Labels of sessions.

    def _label(self, given: Mapping[str, Any], chance: Random) -> list[dict[str, Any]]:
        known = {kind: _shown(given, kind) for kind in ("intent", "transfer_reason", "drop_off_location")}
        return [self._labels(session, known, chance) for session in given["sessions"]]

    def _labels(
        self, session: Mapping[str, Any], known: Mapping[str, dict[str, Shown]], chance: Random
    ) -> dict[str, Any]:
        opening, ending = user_text(session["transcript"]), session["transcript"][-300:]
        containment = session["containment"]
        found = {
            "id": session["id"],
            "intent": self._one(opening, known["intent"], chance),
            "transfer_reason": self._one(ending, known["transfer_reason"], chance) if containment == "agent" else None,
            "drop_off_location": None,
            "summary": f"The user said: {opening[:160]}",
            "intent_quote": " ".join(user_lines(session["transcript"])[0].split()[:QUOTE_WORDS]),
            "ending_quote": None if containment == "selfService" else _last_words(session["transcript"]),
        }
        if containment == "dropOff":
            found["drop_off_location"] = self._one(ending, known["drop_off_location"], chance)
        return found

    def _one(self, text: str, known: dict[str, Shown], chance: Random) -> str:
        """A known label that fits, or a new one, which the sessions after it in the request know too."""
        scored = [(self._fit(text, label) + chance.gauss(0, self._noise), label.name) for label in known.values()]
        best, name = max(scored, default=(0.0, ""))
        if best > 0:
            return name
        name = self._coined(text, chance)
        known.setdefault(name, Shown(name))
        return name

    def _fit(self, text: str, label: Shown) -> float:
        vector = self.vector(text)
        by_name = _decision(float(vector @ self.vector(label.name)), SESSION_TO_NAME)
        if not label.texts:
            return by_name
        near = sorted((float(vector @ self.vector(one)) for one in label.texts), reverse=True)
        by_texts = _decision((near[0] + sum(near) / len(near)) / 2, SESSION_TO_TEXT)
        return NAME_SHARE * by_name + (1 - NAME_SHARE) * by_texts

    def _coined(self, text: str, chance: Random) -> str:
        phrases = list(dict.fromkeys(_phrases(text)))[:MOST_PHRASES]
        if not phrases:
            return "other request"
        vector = self.vector(text)
        name = max(phrases, key=lambda phrase: (float(vector @ self.vector(phrase)) + chance.gauss(0, 0.03), phrase))
        return _varied(name, chance) if chance.random() < VARIED else name

    # Better labels of sessions.

    def _choose(self, given: Mapping[str, Any], chance: Random) -> list[dict[str, Any]]:
        shown = {one["label"]: Shown(one["label"], _texts(one)) for one in given["labels"]}
        return [self._better(session, shown, chance) for session in given["sessions"]]

    def _better(self, session: Mapping[str, Any], shown: Mapping[str, Shown], chance: Random) -> dict[str, Any]:
        text, current = session["said"], session["label"]
        near = session.get("near_copy")
        if near and self._asks_the_same(text, near["said"], chance):
            return {"id": session["id"], "label": near["label"]}
        fits = {
            name: self._fit(text, shown.get(name, Shown(name))) + chance.gauss(0, self._noise)
            for name in dict.fromkeys([current, *shown])
        }
        best = max(fits, key=lambda name: fits[name])
        clear = fits[best] > 0 and fits[best] > fits[current] + CLEARLY
        return {"id": session["id"], "label": best if clear else current}

    def _asks_the_same(self, one: str, other: str, chance: Random) -> bool:
        alike = float(self.vector(one) @ self.vector(other))
        return _decision(alike, SESSION_TO_TEXT) + chance.gauss(0, self._noise) > 0

    # Labels of one meaning.

    def _group(self, given: Mapping[str, Any], chance: Random) -> list[dict[str, Any]]:
        """Groups by average linkage: the two groups that are most alike are joined, as long as they are alike."""
        evidence = given.get("evidence", {})
        labels = [Shown(name, _texts(evidence.get(name, {}))) for name in given["labels"]]
        size = len(labels)
        alike = np.full((size, size), -np.inf)
        for a, b in combinations(range(size), 2):
            alike[a, b] = alike[b, a] = self._alike(labels[a], labels[b]) + chance.gauss(0, self._noise)
        groups = {at: [at] for at in range(size)}
        while len(groups) > 1:
            at = np.unravel_index(int(alike.argmax()), alike.shape)
            if alike[at] <= 0:
                break
            kept, gone = int(at[0]), int(at[1])
            weights = len(groups[kept]), len(groups[gone])
            mean = (weights[0] * alike[kept] + weights[1] * alike[gone]) / sum(weights)
            alike[kept], alike[:, kept] = mean, mean
            alike[gone], alike[:, gone], alike[kept, kept] = -np.inf, -np.inf, -np.inf
            groups[kept] += groups.pop(gone)
        named = [[labels[member].name for member in members] for members in groups.values()]
        return [{"canonical": min(members, key=len), "members": members} for members in named]

    def _alike(self, a: Shown, b: Shown) -> float:
        by_name = _decision(float(self.vector(a.name) @ self.vector(b.name)), NAME_TO_NAME)
        if not (a.texts and b.texts):
            return by_name
        by_texts = _decision(float(self._centre(a.texts) @ self._centre(b.texts)), TEXTS_TO_TEXTS)
        return NAME_SHARE * by_name + (1 - NAME_SHARE) * by_texts


def user_text(transcript: str) -> str:
    """What the user said first."""
    return " ".join(user_lines(transcript)[:USER_LINES])


def user_lines(transcript: str) -> list[str]:
    """What the user said, without greetings; at least one line."""
    lines = [line.partition(": ")[2] for line in transcript.splitlines() if line.startswith("user: ")]
    return [line for line in lines if len(_content(line)) >= 2] or lines or [transcript]


def _last_words(transcript: str) -> str:
    return " ".join(transcript.rpartition("\n")[2].partition(": ")[2].split()[:QUOTE_WORDS])


def _shown(given: Mapping[str, Any], kind: str) -> dict[str, Shown]:
    known = [one for place in ("known_labels", "newer_labels") for one in given.get(place, {}).get(kind, [])]
    names = [one if isinstance(one, str) else one["label"] for one in known]
    detailed = {one["label"]: Shown(one["label"], _texts(one)) for one in given.get("nearest_labels", {}).get(kind, [])}
    return {name: detailed.get(name, Shown(name)) for name in names} | detailed


def _texts(shown: Mapping[str, Any]) -> tuple[str, ...]:
    """What a prompt says of a label beside its name."""
    examples = [*shown.get("examples", ()), *([shown["example"]] if shown.get("example") else [])]
    return tuple(filter(None, [*examples, *([] if examples else [shown.get("definition", "")])]))


def _decision(similarity: float, scale: tuple[float, float]) -> float:
    half, sure = scale
    return (similarity - half) / sure


def _content(text: str) -> list[str]:
    return [word for word in WORD.findall(text.lower()) if word not in STOP]


def _phrases(text: str) -> Iterator[str]:
    """Phrases of the text without words that say little at their ends."""
    for sentence in re.split(r"[.?!,;\n]", text.lower()):
        found = WORD.findall(sentence)
        for size in PHRASE_WORDS:
            for start in range(len(found) - size + 1):
                phrase = found[start : start + size]
                if phrase[0] not in STOP and phrase[-1] not in STOP:
                    yield " ".join(phrase)
    content = _content(text)
    yield from (" ".join(content[start : start + 2]) for start in range(len(content) - 1))


def _varied(name: str, chance: Random) -> str:
    """The same words, written in another way."""
    variants = (name.title(), f"{name}s", name.replace(" ", "-", 1), f"{name} request", f"ask about {name}")
    return chance.choice(variants)
