"""Scripts of phone calls: what the caller does, one step a line."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simulator.twilio.network import Network

SCRIPTS = Path(__file__).parent / "scripts"
CALLBACKS = ("in order", "shuffled", "twice", "never")
LINE = re.compile(r"^\s*(#.*)?$")
GRAMMAR = """A script has one step a line; a line that begins with # is a comment.

  say "TEXT" [at once]               speak, after the agent has finished, or at once
  partial "TEXT"                     only a partial prompt: what was recognised so far
  barge in after N s with "TEXT"     wait for the agent to speak, and interrupt it N seconds later
  press KEYS [at once]               press keys: 0-9, * and #
  wait N s                           stay silent
  wait until quiet                   stay silent until the agent has finished
  expect "TEXT" [within N s]         wait until the agent has said this; the phone call fails if it does not
  expect transfer | expect end       wait until a person is dialled, or the phone call is over
  drop                               the connection to the server is cut without a closing frame
  malformed                          send a frame that is not JSON
  error "TEXT"                       send an error frame
  hang up                            end the phone call

The first lines may set: caller NUMBER, number NUMBER, voice N characters a second, latency N ms,
network delay N ms [jitter N ms], network doubled N%, network reordered N%,
network late interrupts (a prompt overtakes the interruption that it was),
callbacks in order | shuffled | twice | never, busy, no answer.
"""


class ScriptError(ValueError):
    """A line that is not a step; the message has its number."""


@dataclass(frozen=True)
class Step:
    """One step: its name, its arguments, and its line in the script."""

    name: str
    arguments: dict[str, Any]
    line: str


@dataclass(frozen=True)
class Script:
    """What a caller does.

    Attributes:
        caller, number: who calls and which number; None where the simulation decides.
        answer: how a phone that is called reacts: `answers`, `busy` or `no-answer`.
    """

    name: str = "script"
    steps: tuple[Step, ...] = ()
    caller: str | None = None
    number: str | None = None
    characters_per_second: float | None = None
    latency: float | None = None
    network: Network = field(default_factory=Network)
    callbacks: str = "in order"
    answer: str = "answers"


TEXT, NUMBER = r'"([^"]+)"', r"(\d+(?:\.\d+)?)"
PHONE = r"(\+\d{6,15})"
STEPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("say", rf"say {TEXT}( at once)?", ("text", "at_once")),
    ("partial", rf"partial {TEXT}", ("text",)),
    ("barge in", rf"barge in(?: after {NUMBER} ?s)? with {TEXT}", ("seconds", "text")),
    ("press", r"press ([0-9*#]+)( at once)?", ("keys", "at_once")),
    ("wait", rf"(?:wait|silence) {NUMBER} ?s", ("seconds",)),
    ("wait until quiet", r"wait until quiet", ()),
    ("expect", rf"expect {TEXT}(?: within {NUMBER} ?s)?", ("text", "seconds")),
    ("expect transfer", r"expect transfer", ()),
    ("expect end", r"expect end", ()),
    ("drop", r"drop", ()),
    ("malformed", r"malformed", ()),
    ("error", rf"error {TEXT}", ("text",)),
    ("hang up", r"hang up", ()),
)
NUMBERS = ("seconds",)
Setting = Callable[[Script, tuple[str, ...]], Script]


def _network(script: Script, **changes: Any) -> Script:
    return replace(script, network=replace(script.network, **changes))


SETTINGS: tuple[tuple[str, Setting], ...] = (
    (rf"caller {PHONE}", lambda script, found: replace(script, caller=found[0])),
    (rf"number {PHONE}", lambda script, found: replace(script, number=found[0])),
    (
        rf"voice {NUMBER} characters a second",
        lambda script, found: replace(script, characters_per_second=float(found[0])),
    ),
    (rf"latency {NUMBER} ?ms", lambda script, found: replace(script, latency=float(found[0]) / 1000)),
    (
        rf"network delay {NUMBER} ?ms(?: jitter {NUMBER} ?ms)?",
        lambda script, found: _network(script, delay=float(found[0]) / 1000, jitter=float(found[1] or 0) / 1000),
    ),
    (rf"network doubled {NUMBER}%", lambda script, found: _network(script, doubled=float(found[0]) / 100)),
    (rf"network reordered {NUMBER}%", lambda script, found: _network(script, reordered=float(found[0]) / 100)),
    (r"network late interrupts", lambda script, _: _network(script, late_interrupts=True)),
    (rf"callbacks ({'|'.join(CALLBACKS)})", lambda script, found: replace(script, callbacks=found[0])),
    (r"busy", lambda script, _: replace(script, answer="busy")),
    (r"no answer", lambda script, _: replace(script, answer="no-answer")),
)


def parse(text: str, name: str = "script") -> Script:
    """Read a script.

    Raises:
        ScriptError: a line is not a step or a setting.
    """
    script, steps = Script(name), []
    for number, line in enumerate(text.splitlines(), 1):
        if LINE.match(line):
            continue
        stripped = " ".join(line.split())
        step = _step(stripped)
        if step is not None:
            steps.append(step)
            continue
        changed = None if steps else _changed(script, stripped)
        if changed is None:
            hint = " (settings come before the first step)" if _changed(script, stripped) else ""
            raise ScriptError(f"{name}, line {number}: {stripped!r} is not a step{hint}\n\n{GRAMMAR}")
        script = changed
    return replace(script, steps=tuple(steps))


def _step(line: str) -> Step | None:
    for name, pattern, fields in STEPS:
        found = re.fullmatch(pattern, line)
        if found:
            arguments = dict(zip(fields, found.groups(), strict=True))
            return Step(name, {key: _value(key, value) for key, value in arguments.items()}, line)
    return None


def _value(field_name: str, text: str | None) -> Any:
    if field_name == "at_once":
        return text is not None
    return float(text) if text is not None and field_name in NUMBERS else text


def _changed(script: Script, line: str) -> Script | None:
    for pattern, change in SETTINGS:
        found = re.fullmatch(pattern, line)
        if found:
            return change(script, found.groups())
    return None


def ready_scripts() -> dict[str, str]:
    """The scripts of this package by name, with the first line of each: what it shows."""
    paths = sorted(SCRIPTS.glob("*.txt"))
    return {path.stem: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for path in paths}


def load(name: str) -> Script:
    """A script of this package by its name, or of a file by its path.

    Raises:
        ScriptError: there is none, or it cannot be read.
    """
    ready = SCRIPTS / f"{name}.txt"
    path = ready if name in ready_scripts() else Path(name)
    try:
        return parse(path.read_text(encoding="utf-8"), path.stem)
    except OSError:
        known = ", ".join(ready_scripts())
        raise ScriptError(f"{name!r} is neither a file nor one of the scripts {known}") from None
    except UnicodeDecodeError:
        raise ScriptError(f"{name!r} is not a text in UTF-8") from None
