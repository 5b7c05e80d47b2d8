"""What all commands share: the consoles, common options, and a connected client."""

import asyncio
import codecs
import json
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from parley.process import command

if TYPE_CHECKING:
    from parley.client.client import Client

T = TypeVar("T")
MICRO_DIGITS = 6  # of an amount in USD that is given or shown

# What a terminal obeys instead of showing it: the control characters of ASCII except tab and line feed (a sequence
# such as `ESC ]` begins with one), those of Latin-1 (C1), line separators, and the marks that reverse the order of
# text. A lone surrogate, from bytes that are not UTF-8, cannot be written at all. The marks that only state a
# character's direction stay: Arabic and Hebrew texts have them.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, replace: str | Callable[[re.Match[str]], str] = "\ufffd") -> str:
    """A text that shows itself and nothing else; everything that the commands print has passed through here.

    Args:
        text: perhaps of a user, a provider or a file.
        replace: what replaces a character that a terminal would obey.
    """
    return UNPRINTABLE.sub(replace, text)


class SafeConsole(Console):
    """A console that makes every text printable; only Rich's own styles and cursor movements reach the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Rich's segments with printable texts."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)

    def say(self, text: str, *, style: str = "") -> None:
        """Print a text as it is: no markup, no wrapping, its tabs and line feeds kept."""
        if style and self.is_terminal:
            self.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
            return
        self.file.write(f"{printable(text)}\n")

    def begin(self, text: str) -> None:
        """Print a text as it is, at once, without an end of its line."""
        self.file.write(printable(text))
        self.file.flush()


# Results go to stdout, everything else to stderr, so that stdout is only JSON with `--json`.
out = SafeConsole()
err = SafeConsole(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON only on stdout.")]

Workspace = Annotated[str, typer.Option("--workspace", "-w", envvar="PARLEY_WORKSPACE", help="The workspace.")]


class PrintableFormatter(logging.Formatter):
    """Log records, which quote users' ids and providers' replies, as printable text."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with its traceback."""
        return printable(super().format(record))


def log_to_stderr(level: int) -> None:
    """Log records of this level and above to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter(logging.BASIC_FORMAT))
    logging.basicConfig(level=level, handlers=[handler])


def show_json(value: Any) -> None:
    """Print a value as JSON; characters that a terminal would obey are escaped, which leaves the data the same."""
    _write_json(value, indent=2)


def show_json_line(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    _write_json(value, indent=None)
    sys.stdout.flush()


def _write_json(value: Any, indent: int | None) -> None:
    from pydantic import BaseModel, TypeAdapter  # noqa: PLC0415

    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = TypeAdapter(Any).dump_json(data, indent=indent).decode()
    text = printable(text, lambda found: f"\\u{ord(found.group()):04x}")
    # JSON is UTF-8 (RFC 8259, 8.1). In another encoding only escapes are right.
    if codecs.lookup(sys.stdout.encoding or "ascii").name != "utf-8":
        text = "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in text)
    sys.stdout.write(f"{text}\n")


def command_in(workspace: str, *arguments: str) -> str:
    """A command of `parley` on a workspace, that can be pasted into a shell."""
    return command(*arguments, *(() if workspace == "default" else ("--workspace", workspace)))


def with_client(workspace: str, work: "Callable[[Client], Awaitable[T]]") -> T:
    """Run `work` with a client of the workspace, connected as `Client.connect` does by default."""
    from parley.client.client import Client  # noqa: PLC0415

    silence_temporal()

    async def connected() -> T:
        async with await Client.connect(workspace_id=workspace) as client:
            return await work(client)

    return run(connected())


def silence_temporal() -> None:
    """Temporal's SDK logs each retry of a connection to stderr. A command prints the error once, in its own words."""
    from temporalio.runtime import Runtime, TelemetryConfig  # noqa: PLC0415

    with suppress(RuntimeError):  # this process has a runtime already
        Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=None)))


def known_in_policy(option: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that the policy of this environment does not have: it is probably misspelled.

    Raises:
        InvalidInput: it is none of `known`.
    """
    from parley.domain.errors import InvalidInput  # noqa: PLC0415

    if name not in known:
        names = ", ".join(sorted(known)) or "none"
        raise InvalidInput(f"is not in the policy (PARLEY_POLICY_FILE), which has: {names}; got {name!r}", where=option)


def checked_key(key: str | None) -> str | None:
    """An idempotency key, or None.

    Raises:
        InvalidInput: it is blank, as a variable of the shell that is not set: a repetition would not be one.
    """
    from parley.domain.errors import InvalidInput  # noqa: PLC0415
    from parley.domain.model import is_blank  # noqa: PLC0415

    if key is not None and is_blank(key):
        raise InvalidInput("must not be blank: leave it out, or name a key", where="--key")
    return key


def parse_usd(text: str, *, where: str, least: str = "0") -> Decimal:
    """An amount in USD, from `least` on, with six decimals at most.

    Raises:
        InvalidInput: it is not such an amount.
    """
    from parley.domain.errors import InvalidInput  # noqa: PLC0415

    try:
        amount = Decimal(text.removeprefix("$"))
    except ArithmeticError:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < Decimal(least):
        raise InvalidInput(
            f"must be an amount in USD of at least {least}, for example 12.50; got {text!r}", where=where
        )
    if int(amount.normalize().as_tuple().exponent) < -MICRO_DIGITS:
        raise InvalidInput(f"must have six decimals at most, for example 0.000001; got {text!r}", where=where)
    return amount


def parse_since(text: str, *, where: str = "--since") -> datetime:
    """The time that `2026-11-01`, an ISO time, or a span back from now such as `24h` or `7d` means.

    Raises:
        InvalidInput: it is none of these, or it is in the future.
    """
    from parley.domain.errors import InvalidInput  # noqa: PLC0415

    now = datetime.now(UTC)
    try:
        moment = _moment(text, now)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"must be a date such as 2026-11-01 or a span such as 24h or 7d; got {text!r}", where=where
        ) from None
    if moment > now:
        raise InvalidInput(
            f"is in the future: {text!r}; name a date before today, or a span back from now such as 7d", where=where
        )
    return moment


def _moment(text: str, now: datetime) -> datetime:
    units = {"h": "hours", "d": "days", "w": "weeks"}
    if text[-1:] in units:
        return now - timedelta(**{units[text[-1]]: float(text[:-1])})
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
