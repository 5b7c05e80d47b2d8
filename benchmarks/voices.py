"""How well voices on one channel are separated on this machine, and how often one voice is taken for two.

Pairs and triples of voices: the borders of the sentences are given. A conversation: the local model hears two people on
one channel, as they were recorded and by telephone (8 kHz, with noise 20 dB below).

The voices are in two halves: by the first the threshold between one voice and two may be set; the second is for the
figures. Each has a person of Debian's pocketsphinx-testdata, three voices of espeak-ng and two of flite.
"""

import subprocess
from itertools import combinations, permutations, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.hearing import as_wav, conversation, sentences
from benchmarks.options import Figures, Options
from parley.audio import decode
from parley.domain.errors import InvalidInput
from parley.domain.requests import SpokenWord, TranscriptionRequest
from parley.providers.local_speech import RATE, SHIPPED_MODEL, LocalSpeechAdapter
from parley.voices import vectors, voice_groups

# Of espeak-ng and of flite, for each half.
SYNTHETIC = {
    "set with": (("en-us", "en-us+m7", "en-us+f2"), ("kal16", "slt")),
    "held out": (("en-us+m3", "en-us+f4", "en-gb-scotland+m5"), ("awb", "rms")),
}
TEXTS = (
    "How many lifts do you have in the building today?",
    "We use a spreadsheet, and it takes all morning.",
    "I understand. What would it have to save for you?",
    "Honestly, your tool is too expensive for us at the moment.",
    "Could we set up a demo on Thursday at ten?",
    "Send me the numbers, and I will talk to my manager.",
)
NOISE_DB, SEED = -20, 7


Known = tuple[list[Any], list[float]]


async def measure(options: Options) -> Figures:  # noqa: ARG001 - it has no options
    two_people = sentences()
    figures: Figures = {}
    for (half, synthetic), person in zip(SYNTHETIC.items(), two_people, strict=True):
        voices = {"a person": [one.samples for one in person]} | _synthesised(*synthetic)
        known = [(vectors(spoken), [len(one) / RATE for one in spoken]) for spoken in voices.values()]
        for count in (2, 3):
            shares = [_share(*group) for group in combinations(known, count)]
            figures[f"{half}: time that is given to its speaker, {count} voices, borders given"] = {
                f"mean of {len(shares)}": float(np.mean(shares)),
                "worst": min(shares),
                "with 90% or more": float(np.mean([share >= 0.9 for share in shares])),
            }
        taken = sum(any(voice_groups(*of_voice)) for of_voice in known)
        figures[f"{half}: one voice"] = {f"taken for more, of {len(known)}": float(taken)}
    channels = conversation(*two_people)
    figures["words that are given to their speaker, two people heard"] = {
        "as recorded": await _heard(*channels),
        "by telephone": await _heard(*_by_telephone(*channels)),
    }
    return figures


def _synthesised(by_espeak: tuple[str, ...], by_flite: tuple[str, ...]) -> dict[str, list[Any]]:
    """The texts in these voices."""
    with TemporaryDirectory(prefix="parley-voices-") as folder:
        path = str(Path(folder) / "spoken.wav")
        programs = [(voice, ["espeak-ng", "-v", voice, "-w", path]) for voice in by_espeak]
        programs += [(voice, ["flite", "-voice", voice, "-o", path, "-t"]) for voice in by_flite]
        return {voice: [_spoken([*program, text], path) for text in TEXTS] for voice, program in programs}


def _spoken(program: list[str], path: str) -> Any:
    try:
        subprocess.run(program, capture_output=True, check=True)
    except FileNotFoundError:
        raise InvalidInput("is not installed: apt-get install espeak-ng flite", where=program[0]) from None
    return decode(Path(path).read_bytes(), rate=RATE).channels[0]


def _share(*voices: Known) -> float:
    """The share of the time whose sentence is put with those of its voice, by the best naming of the groups.

    The voices speak in turn.
    """
    turns = zip_longest(*(zip(*voice, strict=True) for voice in voices))
    spoken = [(*of_one, side) for turn in turns for side, of_one in enumerate(turn) if of_one]
    found, lengths, sides = zip(*spoken, strict=True)
    groups = voice_groups(found, lengths)
    names = permutations(range(max(len(voices), max(groups) + 1)), max(groups) + 1)
    return max(
        float(np.average([name[group] == side for group, side in zip(groups, sides, strict=True)], weights=lengths))
        for name in names
    )


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
