"""The phone calls in a terminal, while they are held."""

import re
from collections.abc import Callable
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from simulator.twilio.log import Event
from simulator.twilio.simulation import Simulated
from simulator.twilio.summary import Spread, Summary

# What a terminal obeys instead of showing it.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
CALLER, AGENT, NOTE, TROUBLE = "bold cyan", "green", "dim", "yellow"
TIME_WIDTH, NAME_WIDTH, CELL_WIDTH = 7, 8, 38
FRAMES_PER_SECOND = 12
MODELLED = "Speech-to-text and the voice are modelled: times of speech are computed from texts, and there is no audio."


def printable(text: str) -> str:
    """A text of a server as text only, on one line."""
    return " ".join(UNPRINTABLE.sub("\ufffd", text).split())


class Talk:
    """Shows one phone call: what the caller says, and the answers as they are heard.

    On a terminal the line at the bottom moves: words that are heard are bright, those that wait are dim.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live("", console=console, refresh_per_second=FRAMES_PER_SECOND, transient=True)
        self._heard = self._sent = self._partial = ""
        self._at = 0.0
        self._asked: float | None = None
        self._speed = 1.0
        self._held: tuple[float, Text] | None = None
        self._delay = ""
        self._shows: dict[str, Callable[..., None]] = {
            "says": self._says,
            "partial": self._partly_said,
            "said": self._said,
            "text": self._text,
            "greeting": self._greeting,
            "speaking": self._speaking,
            "spoken": self._spoken,
            "interrupt": self._interrupt,
            "quiet": self._quiet,
            "ended": self._ended,
        }

    def __enter__(self) -> "Talk":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()
        self._live.stop()

    def __call__(self, one: Simulated, event: Event) -> None:
        self._speed = one.phone_call.clock.speed
        show = self._shows.get(event.kind)
        if show is not None:
            show(event, **event.details)
        elif event.kind in SENTENCES:
            style, sentence = SENTENCES[event.kind]
            if event.kind in {"status", "connected", "transfer"}:
                self._finish()
            who = "caller" if event.kind == "key" else ""
            self._line(event.at, who, Text(printable(sentence(event.details)), style))
        self._live.update(self._moving())

    # The caller

    def _says(self, event: Event, text: str) -> None:
        self._partial = "…"
        self._held = event.at, Text(printable(text), CALLER)
        if not self._is_agent_speaking:
            self._show_held()

    def _partly_said(self, event: Event, text: str) -> None:  # noqa: ARG002
        self._partial = text

    def _said(self, event: Event, text: str, ended: float) -> None:  # noqa: ARG002
        self._show_held()
        self._partial, self._asked, self._delay = "", event.at, ""

    # The agent

    def _greeting(self, event: Event, text: str) -> None:
        self._sent, self._at = text, event.at

    def _text(self, event: Event, *, token: str, **_: Any) -> None:
        if self._asked is not None and token.strip():
            self._delay, self._asked = f"first text after {_milliseconds((event.at - self._asked) / self._speed)}", None
        self._sent += token

    def _speaking(self, event: Event, *, kind: str, **_: Any) -> None:
        self._at = event.at
        if kind == "play":
            self._line(event.at, "agent", Text("♪ a recording", NOTE))

    def _spoken(self, event: Event, *, text: str, **_: Any) -> None:  # noqa: ARG002
        self._heard += text

    def _interrupt(self, event: Event, *, by: str, heard: str, unheard: str, **_: Any) -> None:
        what = "key" if by == "dtmf" else "voice"
        before = "before the next word" if self._heard else "before the first word"
        where = f"after {printable(heard)!r}" if heard else before
        self._finish(unheard)
        self._line(event.at, "", Text(f"✋ the caller's {what} interrupts, {where}", TROUBLE))
        self._show_held()

    def _quiet(self, event: Event) -> None:  # noqa: ARG002
        self._finish()

    def _ended(self, event: Event, status: str, handoff_data: str | None, error: str | None) -> None:
        self._finish()
        ends = {"completed": "the caller hangs up", "ended": "the agent ends the session", "failed": error or "failed"}
        handed = f", and hands over {handoff_data}" if handoff_data else ""
        self._line(event.at, "", Text(printable(f"● {ends[status]}{handed}"), NOTE))

    def _show_held(self) -> None:
        """Print what the caller says; beside an agent that speaks, it waits for the interruption."""
        if self._held is not None:
            at, text = self._held
            self._held = None
            self._line(at, "caller", text)

    @property
    def _is_agent_speaking(self) -> bool:
        return bool(self._heard or self._sent)

    def _finish(self, unheard: str = "") -> None:
        """Print what the agent has said."""
        if self._heard.strip() or unheard:
            line = Text(printable(self._heard), AGENT)
            if unheard:
                line.append(" " if line.plain else "").append(printable(unheard), "strike dim")
            if self._delay:
                line.append(f"   {self._delay}", NOTE)
            self._line(self._at, "agent", line)
        self._heard = self._sent = self._delay = ""
        self._live.update("")

    # Drawing

    def _moving(self) -> RenderableType:
        lines: list[RenderableType] = []
        if self._sent or self._heard:
            waiting = self._sent[len(self._heard) :] if self._sent.startswith(self._heard) else ""
            text = Text(printable(self._heard), AGENT).append(" ▍ ", AGENT).append(printable(waiting), NOTE)
            lines.append(_row(self._at, "agent", text))
        if self._partial:
            lines.append(_row(None, "", Text(f"〰 {printable(self._partial)}", NOTE)))
        return Group(*lines)

    def _line(self, at: float, who: str, text: Text) -> None:
        self._console.print(_row(at, who, text))


class Board:
    """Shows many phone calls at once: a cell for each, with what happens there."""

    def __init__(self, console: Console, count: int) -> None:
        self._console = console
        self._cells: dict[int, tuple[str, str]] = dict.fromkeys(range(count), ("…", NOTE))
        self._live = Live("", console=console, refresh_per_second=FRAMES_PER_SECOND, transient=True)

    def __enter__(self) -> "Board":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, one: Simulated, event: Event) -> None:
        cell = CELLS.get(event.kind)
        if cell is None:
            return
        text, style = cell(event.details)
        self._cells[one.number] = (printable(text), style)
        self._live.update(self._drawn())

    def _drawn(self) -> RenderableType:
        cells = [
            Text(f"{number + 1:>3} {text}"[:CELL_WIDTH], style, no_wrap=True)
            for number, (text, style) in self._cells.items()
        ]
        return Columns(cells, width=CELL_WIDTH)


def _row(at: float | None, who: str, text: Text) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=TIME_WIDTH, justify="right", style=NOTE)
    grid.add_column(width=NAME_WIDTH, style=CALLER if who == "caller" else AGENT)
    grid.add_column(overflow="fold")
    grid.add_row("" if at is None else f"{int(at) // 60}:{at % 60:04.1f}", who, text)
    return grid


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


Details = dict[str, Any]
Sentence = Callable[[Details], str]
SENTENCES: dict[str, tuple[str, Sentence]] = {
    "status": (NOTE, lambda found: f"☎ {found['status']}"),
    "request": (NOTE, lambda found: f"→ {found['url']} answers {found['status']} in {found['seconds'] * 1000:.0f} ms"),
    "connected": (NOTE, lambda found: f"⇄ {found['url']}"),
    "key": (
        CALLER,
        lambda found: f"presses {found['digit']}{'' if found['reported'] else ' (no dtmfDetection: not reported)'}",
    ),
    "lost": (
        TROUBLE,
        lambda found: f"not reported, because the agent speaks and may not be interrupted: {found['text']}",
    ),
    "gap": (TROUBLE, lambda found: f"… a silence of {found['seconds']:.1f} s in the answer"),
    "play": (NOTE, lambda found: f"♪ {found['source']}"),
    "digits": (NOTE, lambda found: f"the agent presses {found['digits']}"),
    "language": (NOTE, lambda found: f"the agent speaks {found['tts']} and listens to {found['transcription']}"),
    "transfer": (NOTE, lambda found: f"☎ a person is dialled: {found['number']}"),
    "network": (TROUBLE, lambda found: f"⚡ {found['what']}"),
    "warning": (TROUBLE, lambda found: f"⚠ {found['text']}"),
    "error": ("bold red", lambda found: f"✗ {found['text']}"),
    "expected": (NOTE, lambda found: f"{'✓' if found['came'] else '✗'} expected: {found['text']}"),
}
CELLS: dict[str, Callable[[Details], tuple[str, str]]] = {
    "status": lambda found: (f"☎ {found['status']}", NOTE),
    "says": lambda found: (f"› {found['text']}", CALLER),
    "spoken": lambda found: (f"  {found['text']}", AGENT),
    "interrupt": lambda found: (f"✋ {found['said']}", TROUBLE),
    "gap": lambda found: (f"… {found['seconds']:.1f} s of silence", TROUBLE),
    "error": lambda found: (f"✗ {found['text']}", "bold red"),
}


def summary_panel(found: Summary) -> RenderableType:
    """The figures of the phone calls."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style=NOTE)
    table.add_column()
    rows = {
        "phone calls": f"{found.phone_calls}, {found.failed} with errors",
        "turns": f"{found.turns}, {found.unanswered} without an answer; {found.interruptions} interruptions",
        "first text": f"{_spread(found.first_text_ms)} after the final prompt",
        "first sound": f"{_spread(found.heard_ms)} after the caller's last word",
        "whole answer": f"{_spread(found.answer_ms)} after the final prompt",
        "silences in answers": f"{found.gaps}, the longest {found.longest_gap_ms:,} ms" if found.gaps else "none",
        "repeated words": printable("; ".join(found.repeated)) or "none",
        "warnings, errors": f"{found.warnings}, {found.errors}",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return Panel(Group(table, Text(MODELLED, NOTE)), title="simulated phone calls", title_align="left", expand=False)


def _spread(found: Spread) -> str:
    if found.p50 is None:
        return "no"
    return f"p50 {found.p50:,} ms, p95 {found.p95:,} ms, longest {found.longest:,} ms,"
