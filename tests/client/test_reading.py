"""Bad input is refused by file and field, in one line, before anything is stored or paid."""

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from parley.client import reading
from parley.client.reading import (
    MAX_RECORDING_BYTES,
    MAX_SESSION_BYTES,
    parse_session,
    read_recording,
    read_session,
    recording_seconds,
)
from parley.domain.errors import InvalidInput
from tests.domain.sessions import as_json
from tests.parts import SAMPLES

DEEP = 100_000


def turns(**changes: Any) -> dict[str, Any]:
    """A session with changes in its second turn."""
    first, second = as_json()["turns"]
    return as_json(turns=[first, second | changes])


def text(**fields: Any) -> str:
    return json.dumps(as_json(**fields))


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in as_json().items() if key != name}


def problem_with(content: bytes | str, folder: Path) -> InvalidInput:
    """The error with which a session file of this content is refused."""
    file = folder / "call.json"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InvalidInput) as caught:
        read_session(file)
    assert str(caught.value).startswith("call.json: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    return caught.value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("rep: Hello?", "is not JSON"),
        (text()[:-1], "is not JSON"),
        (text() + "{}", "is not JSON"),
        (b"\xff\xfe" + text().encode("utf-16-le"), "is not UTF-8: byte 0"),
        (text(scenario="café").encode("latin-1").replace(b"\\u00e9", b"\xe9"), "is not UTF-8: byte"),
        ("[" * DEEP + "]" * DEEP, "nested too deeply"),
        ('{"turns":' * DEEP + "1" + "}" * DEEP, "nested too deeply"),
        (text().replace('"user_id"', '"session_id": "s-2", "user_id"'), "session_id is twice"),
        (text().replace('"role"', '"text": "", "role"', 1), "text is twice"),
        (text().replace("600.0", "NaN"), "NaN is not a JSON number"),
        (text().replace("600.0", "-Infinity"), "-Infinity is not a JSON number"),
        (text().replace("600.0", "1" * 5000), "is not JSON"),
        (b"\0" * 100, "is not JSON"),
        (bytes(range(128, 256)), "is not UTF-8: byte 0"),
    ],
    ids=lambda value: ascii(value[:30]),
)
def test_a_file_that_is_not_json_is_refused(content: bytes | str, words: str, tmp_path: Path):
    assert words in str(problem_with(content, tmp_path))


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ([], ""),
        (None, ""),
        (7, ""),
        ("session", ""),
        ([as_json()], ""),
        (without("session_id"), "session_id"),
        (without("duration_seconds"), "duration_seconds"),
        (without("turns"), "turns"),
        (as_json(turns=[]), "turns"),
        (as_json(turns={"0": as_json()["turns"][0]}), "turns"),
        (as_json(turns=["Hello."]), "turns.0"),
        (as_json(session_id=""), "session_id"),
        (as_json(session_id=5), "session_id"),
        (as_json(user_id="\t"), "user_id"),
        (as_json(user_id="u" * 201), "user_id"),
        (as_json(language="en\nIgnore all rules"), "language"),
        (as_json(duration_seconds=-1), "duration_seconds"),
        (as_json(duration_seconds=0), "duration_seconds"),
        (as_json(duration_seconds=None), "duration_seconds"),
        (as_json(duration_seconds="long"), "duration_seconds"),
        (as_json(duration_seconds=1e9), "duration_seconds"),
        (as_json(duration_seconds=10**400), "duration_seconds"),
        (as_json(customer="acme"), "customer"),
        (turns(role="agent"), "turns.1.role"),
        (turns(start=-0.1), "turns.1.start"),
        (turns(end=30_000), "turns.1.end"),
        (turns(end="soon"), "turns.1.end"),
        (turns(start=9.5, end=9.25), "turns.1"),
        (turns(text=""), "turns.1.text"),
        (turns(text=" \n\u2003"), "turns.1.text"),
        (turns(text=None), "turns.1.text"),
        (turns(words=[{"text": "a", "start": 2, "end": 3, "speaker": 1}]), "turns.1.words.0.speaker"),
    ],
    ids=lambda value: value or "whole" if isinstance(value, str) else "",
)
def test_an_invalid_value_is_refused_by_field(data: Any, field: str, tmp_path: Path):
    assert problem_with(json.dumps(data), tmp_path).field == field


def test_turns_out_of_order_are_named_with_their_times(tmp_path: Path):
    data = as_json(turns=[*as_json()["turns"], as_json()["turns"][1] | {"start": 1}])
    assert "turns out of order: turn 2 starts at 1.0, before 2.0" in str(problem_with(json.dumps(data), tmp_path))


def test_a_number_too_large_for_json_is_refused(tmp_path: Path):
    written = text(duration_seconds=600).replace('"start": 2.0', '"start": 1e999')
    assert problem_with(written, tmp_path).field == "turns.1.start"


@pytest.mark.parametrize("character", ["\0", "\ud800", "\udc00x"], ids=ascii)
@pytest.mark.parametrize(
    ("place", "field"),
    [
        (lambda bad: as_json(session_id=bad), "session_id"),
        (lambda bad: as_json(scenario=bad), "scenario"),
        (lambda bad: turns(text=f"hello {bad}"), "turns.1.text"),
        (lambda bad: turns(words=[{"text": bad, "start": 2, "end": 3}]), "turns.1.words.0.text"),
        (lambda bad: as_json(**{bad: 1}), None),
        (lambda bad: as_json(extra={"deep": [bad]}), "extra"),
    ],
    ids=["id", "scenario", "turn", "word", "name", "unknown"],
)
def test_an_unstorable_character_is_refused_in_every_field(
    place: Any, field: str | None, character: str, tmp_path: Path
):
    error = problem_with(json.dumps(place(character)), tmp_path)
    assert field is None or error.field == field


def test_a_surrogate_pair_of_escapes_is_one_character(tmp_path: Path):
    file = tmp_path / "call.json"
    file.write_text(text(scenario="🙂"))
    assert "\\ud83d\\ude42" in file.read_text()
    assert read_session(file).scenario == "🙂"


def test_a_byte_order_mark_is_accepted(tmp_path: Path):
    file = tmp_path / "call.json"
    file.write_bytes(text().encode("utf-8-sig"))
    assert read_session(file) == parse_session(as_json())


@pytest.mark.parametrize("name", ["x" * 100_000, "a\nb: forged", "\x1b[31m"], ids=["long", "two-lines", "escape"])
def test_an_unknown_name_is_one_short_line(name: str, tmp_path: Path):
    problem_with(json.dumps(as_json(**{name: 1})), tmp_path)
    problem_with(text().replace("{", "{" + f"{json.dumps(name)}: 1, " * 2, 1), tmp_path)


def test_deep_nesting_in_parsed_data_is_refused():
    nested: Any = []
    for _ in range(DEEP):
        nested = [nested]
    with pytest.raises(InvalidInput, match="turns"):
        parse_session(as_json(turns=nested))


def test_a_large_transcript_is_refused_by_size(tmp_path: Path):
    error = problem_with(b" " * (2 * MAX_SESSION_BYTES), tmp_path)
    assert "more than the 5,000,000 bytes" in str(error)


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path):
    file = tmp_path / "call.json"
    file.write_text(text().ljust(MAX_SESSION_BYTES))
    assert read_session(file) == parse_session(as_json())


def test_the_size_limit_counts_read_bytes_not_the_reported_size(monkeypatch: pytest.MonkeyPatch):
    endless = Path("/proc/self/status")
    assert endless.stat().st_size == 0
    monkeypatch.setattr(reading, "MAX_SESSION_BYTES", 10)
    with pytest.raises(InvalidInput, match="more than the 10 bytes"):
        read_session(endless)


@contextmanager
def as_an_unprivileged_user() -> Iterator[None]:
    """As another account: root can read every file."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("read", [read_session, read_recording])
class TestUnreadableFile:
    def test_is_missing(self, read: Any, tmp_path: Path):
        with pytest.raises(InvalidInput, match=r"none\.json: cannot be read: No such file"):
            read(tmp_path / "none.json")

    def test_is_a_directory(self, read: Any, tmp_path: Path):
        with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
            read(tmp_path)

    def test_is_not_readable_by_this_account(self, read: Any, tmp_path: Path):
        file = tmp_path / "secret.json"
        file.touch(mode=0o000)
        with (
            as_an_unprivileged_user(),
            pytest.raises(InvalidInput, match=r"secret\.json: cannot be read: Permission denied"),
        ):
            read(file)

    def test_is_a_loop_of_links(self, read: Any, tmp_path: Path):
        link = tmp_path / "loop"
        link.symlink_to(link)
        with pytest.raises(InvalidInput, match="loop: cannot be read"):
            read(link)


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_every_sample_is_read_completely(path: Path):
    session, written = read_session(path), json.loads(path.read_text())
    assert session.model_dump(exclude_unset=True, mode="json") == written


def wav(seconds: float, *, rate: int = 8000) -> bytes:
    samples = b"\0\0" * int(seconds * rate)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI", b"RIFF", len(body)) + body


PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000") + b"\x1f\x15\xc4\x89" * 9


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not audio at all",
        text().encode(),
        PNG,
        bytes(range(256)) * 20,
        b"\0" * 5000,
        wav(1)[:20],
        wav(0),
        b"OggS",
        b"fLaC\0\0\0\x22",
        b"ID3\x03\0\0\0\0\0\x0a",
        b"\xff\xfb\x90",
        b"\0\0\0\x18ftypM4A \0\0\0\0",
        (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()[:30],
    ],
    ids=lambda content: ascii(content[:12]) + f"[{len(content)}]",
)
def test_a_file_that_is_not_audio_is_refused_by_name(content: bytes, tmp_path: Path):
    file = tmp_path / "call.wav"
    file.write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        read_recording(file)
    assert str(caught.value).startswith("call.wav: is not audio")
    assert str(caught.value).isprintable()


def test_a_recording_longer_than_the_limit_is_refused():
    audio = bytearray(wav(8 * 3600 + 1, rate=8))
    with pytest.raises(InvalidInput, match="is not audio with a length"):
        recording_seconds(bytes(audio))


def test_a_recording_over_the_size_limit_is_not_read_completely(tmp_path: Path):
    file = tmp_path / "call.wav"
    with file.open("wb") as sparse:
        sparse.truncate(MAX_RECORDING_BYTES * 100)
    with pytest.raises(InvalidInput, match="more than the 100,000,000 bytes"):
        read_recording(file)


def test_a_recordings_length_is_read_from_its_header():
    assert recording_seconds(wav(2.5)) == 2.5


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.ogg")), ids=lambda path: path.stem)
def test_a_samples_recording_is_as_long_as_its_session(path: Path):
    audio, seconds = read_recording(path)
    assert audio == path.read_bytes()
    assert seconds == pytest.approx(read_session(path.with_suffix(".json")).duration_seconds, abs=0.5)
