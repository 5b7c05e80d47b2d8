import math
import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from tinytag import TinyTag

from parley.domain.session import Session, Turn

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"
FILES = sorted(SAMPLES.glob("*.json"))
RECORDINGS = sorted(SAMPLES.glob("*.ogg"))

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
each_recording = pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)


def load(path: Path) -> Session:
    return Session.model_validate_json(path.read_bytes())


def words_per_minute(turn: Turn) -> float:
    return 60 * len(turn.words) / (turn.end - turn.start)


def test_the_samples_have_one_short_and_one_long_session():
    lengths = [load(path).duration_seconds for path in FILES]
    assert len(lengths) == 6
    assert sum(length < 60 for length in lengths) == 1
    assert sum(length > 300 for length in lengths) == 1


def test_the_session_id_is_the_file_name():
    assert [load(path).session_id for path in FILES] == [path.stem for path in FILES]


def test_one_sample_is_in_spanish_and_one_has_a_prompt_injection():
    sessions = [load(path) for path in FILES]
    assert sorted(session.language for session in sessions) == ["en"] * 5 + ["es"]
    turns = [turn for session in sessions for turn in session.turns]
    injections = [turn for turn in turns if "ignore your instructions" in turn.text]
    assert [turn.role for turn in injections] == ["prospect"]


@each_file
def test_every_session_has_two_speakers(path: Path):
    assert load(path).speakers == 2


@each_file
def test_the_timed_words_are_the_words_of_the_text(path: Path):
    for turn in load(path).turns:
        assert [word.text for word in turn.words] == turn.text.split()


@each_file
def test_words_are_within_their_turn_and_in_order(path: Path):
    for turn in load(path).turns:
        assert (turn.words[0].start, turn.words[-1].end) == (turn.start, turn.end)
        assert all(word.end > word.start for word in turn.words)
        assert all(before.end <= after.start + 0.01 for before, after in pairwise(turn.words))


@each_file
def test_the_pace_of_speech_is_realistic(path: Path):
    session = load(path)
    assert all(70 <= words_per_minute(turn) <= 260 for turn in session.turns)
    for role in ("rep", "prospect"):
        turns = [turn for turn in session.turns if turn.role == role]
        seconds = sum(turn.end - turn.start for turn in turns)
        assert 130 <= 60 * sum(len(turn.words) for turn in turns) / seconds <= 190


@each_file
def test_words_and_pauses_vary_in_length(path: Path):
    turn = max(load(path).turns, key=lambda turn: len(turn.words))
    assert len({round(word.end - word.start, 2) for word in turn.words}) > 10
    assert len({round(after.start - before.end, 2) for before, after in pairwise(turn.words)}) > 5


@each_file
def test_speakers_rarely_overlap(path: Path):
    gaps = [after.start - before.end for before, after in pairwise(load(path).turns)]
    overlaps = [-gap for gap in gaps if gap < 0]
    assert len(overlaps) <= 4
    assert all(seconds < 0.6 for seconds in overlaps)


@each_file
def test_the_session_ends_shortly_after_the_last_word(path: Path):
    session = load(path)
    last = max(turn.end for turn in session.turns)
    assert last <= session.duration_seconds <= last + 2


def test_the_sources_give_the_committed_bytes(tmp_path: Path):
    subprocess.run([sys.executable, "-m", "samples.build", str(tmp_path)], cwd=ROOT, check=True)
    built = sorted(tmp_path.glob("*.json"))
    recorded = {path.stem for path in RECORDINGS}
    assert [path.stem for path in built] == [path.stem for path in FILES if path.stem not in recorded]
    for path in built:
        assert path.read_bytes() == (SAMPLES / path.name).read_bytes()


def test_one_session_has_a_recording():
    assert [path.stem for path in RECORDINGS] == ["gatekeeper-dental-clinic"]


@each_recording
def test_the_recorded_words_are_the_words_of_the_source(path: Path):
    source = (SAMPLES / "sources" / f"{path.stem}.txt").read_text(encoding="utf-8")
    for turn in load(path.with_suffix(".json")).turns:
        assert f": {turn.text}" in " ".join(source.split())


@each_recording
def test_the_recording_has_the_duration_of_its_session(path: Path):
    tag = TinyTag.get(path)
    assert tag.duration == pytest.approx(load(path.with_suffix(".json")).duration_seconds, abs=0.5)
    assert (tag.channels, tag.samplerate) == (1, 16_000)
    assert path.stat().st_size < 400_000


@each_recording
def test_the_recording_is_loud_at_the_times_of_its_words(path: Path):
    miniaudio = pytest.importorskip("miniaudio")
    sound = miniaudio.decode_file(str(path), nchannels=1, sample_rate=16_000)

    def loudness(start: float, end: float) -> float:
        return rms(sound.samples[round(start * 16_000) : round(end * 16_000)])

    turns = load(path.with_suffix(".json")).turns
    pauses = [loudness(before.end + 0.05, after.start - 0.05) for before, after in pairwise(turns)]
    for turn in turns:
        spoken = [loudness(word.start, word.end) for word in turn.words]
        assert loudness(turn.start, turn.end) > 20 * max(pauses)
        assert min(spoken) > 5 * max(pauses)


def rms(samples: Iterable[int]) -> float:
    squares = [sample * sample for sample in samples]
    return math.sqrt(sum(squares) / len(squares))
