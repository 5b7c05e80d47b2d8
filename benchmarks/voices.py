"""How well two voices on one channel are separated on this machine, and how often one voice is taken for two.

Pairs of voices: the borders of the sentences are given. A conversation: the local model hears two people on one
channel, as they were recorded and by telephone (8 kHz, with noise 20 dB below).

The voices: two people of Debian's pocketsphinx-testdata, and five of espeak-ng with different pitch and formants.
"""

import subprocess
from itertools import combinations, zip_longest
from typing import Any

import numpy as np

from benchmarks.hearing import as_wav, conversation, sentences
from benchmarks.options import Figures, Options
from parley.audio import decode
from parley.domain.errors import InvalidInput
from parley.domain.requests import SpokenWord, TranscriptionRequest
from parley.providers.local_speech import RATE, SHIPPED_MODEL, LocalSpeechAdapter
from parley.voices import two_groups, vectors

SYNTHETIC = ("en-us", "en-us+m3", "en-us+m7", "en-us+f2", "en-us+f4")
TEXTS = (
    "How many lifts do you have in the building today?",
    "We use a spreadsheet, and it takes all morning.",
    "I understand. What would it have to save for you?",
    "Honestly, your tool is too expensive for us at the moment.",
    "Could we set up a demo on Thursday at ten?",
    "Send me the numbers, and I will talk to my manager.",
)
NOISE_DB, SEED = -20, 7


async def measure(options: Options) -> Figures:  # noqa: ARG001 - it has no options
    two_people = sentences()
    people = {name: [one.samples for one in spoken] for name, spoken in zip(("a", "b"), two_people, strict=True)}
    voices = people | {voice: [_synthesised(voice, text) for text in TEXTS] for voice in SYNTHETIC}
    known = {name: (vectors(spoken), [len(one) / RATE for one in spoken]) for name, spoken in voices.items()}
    pairs = {pair: _share(*(known[name] for name in pair)) for pair in combinations(voices, 2)}
    shares = list(pairs.values())
    channels = conversation(*two_people)
    return {
        "time that is given to its speaker, borders given": {
            "two people": pairs["a", "b"],
            f"mean of {len(pairs)} pairs": float(np.mean(shares)),
            "worst pair": min(shares),
            "pairs with 90% or more": float(np.mean([share >= 0.9 for share in shares])),
        },
        "one voice": {
            f"taken for two, of {len(known)}": float(sum(any(two_groups(*of_voice)) for of_voice in known.values()))
        },
        "words that are given to their speaker, two people heard": {
            "as recorded": await _heard(*channels),
            "by telephone": await _heard(*_by_telephone(*channels)),
        },
    }


def _synthesised(voice: str, text: str) -> Any:
    try:
        spoken = subprocess.run(["espeak-ng", "-v", voice, "--stdout", text], capture_output=True, check=True)
    except FileNotFoundError:
        raise InvalidInput("is not installed: apt-get install espeak-ng", where="the synthesiser") from None
    return decode(spoken.stdout, rate=RATE).channels[0]


def _share(first: tuple[list[Any], list[float]], second: tuple[list[Any], list[float]]) -> float:
    """The share of the time whose sentence is put with those of its voice, by the better of both namings.

    The voices speak in turn.
    """
    spoken = [
        (of_one, side)
        for pair in zip_longest(zip(*first, strict=True), zip(*second, strict=True))
        for side, of_one in enumerate(pair)
        if of_one
    ]
    lengths = [length for (_, length), _ in spoken]
    groups = two_groups([vector for (vector, _), _ in spoken], lengths)
    share = float(np.average(np.array(groups) == [side for _, side in spoken], weights=lengths))
    return max(share, 1 - share)


def _by_telephone(*channels: Any) -> tuple[Any, ...]:
    chance = np.random.default_rng(SEED)
    narrow = [decode(as_wav((one[::2],), rate=RATE // 2), rate=RATE).channels[0] for one in channels]
    return tuple(one + 10 ** (NOISE_DB / 20) * one.std() * chance.normal(size=len(one)) for one in narrow)


async def _heard(first: Any, second: Any) -> float:
    """The share of the words that are given to the one who speaks at their middle, by the better of both namings."""
    audio = as_wav((first + second,))
    request = TranscriptionRequest(audio_sha256="benchmark", audio_seconds=1, audio=audio)
    reply = await LocalSpeechAdapter().call(request, SHIPPED_MODEL, "benchmark")
    right = np.mean([_is_of(word, first, second) == (word.speaker == "speaker 1") for word in reply.words])
    return float(max(right, 1 - right))


def _is_of(word: SpokenWord, first: Any, second: Any) -> bool:
    """Whether a word is of the first one."""
    span = slice(round(word.start * RATE), round(word.end * RATE) + 1)
    return bool(np.square(first[span]).sum() > np.square(second[span]).sum())
