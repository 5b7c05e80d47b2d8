"""The stack that runs in the background: `parley up --detach`, `parley down`, `parley logs`."""

import os
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TextIO

import typer

from parley.cli.console import err, out
from parley.connection import logs_dir, running_stack, stack_process
from parley.domain.errors import InvalidInput
from parley.settings import Settings

POLL_SECONDS = 0.1

app = typer.Typer()


@app.command()
def down() -> None:
    """Stop the stack that `parley up` started."""
    state_dir = Settings().state_dir
    process = stack_process(state_dir)
    if process is None:
        out.say(f"no stack runs in {state_dir}")
        return
    err.say("stopping: the worker finishes its paid calls first")
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    while stack_process(state_dir) == process:
        time.sleep(POLL_SECONDS)
    out.say(f"the stack in {state_dir} has stopped; its data stays")


@app.command()
def logs(
    part: Annotated[str | None, typer.Argument(metavar="[PART]", help="Only this part's, for example worker.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of each log.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines as they come, until Ctrl-C.")] = False,
) -> None:
    """Print the last lines of the stack's logs."""
    directory = logs_dir(Settings().state_dir)
    found = _logs(directory)
    if not found:
        raise InvalidInput("has no logs: start a stack with `parley up`", where=str(directory))
    if part is not None and part not in found:
        raise InvalidInput(f"has no log of {part!r}: there are {', '.join(found)}", where=str(directory))
    opened = {name: _open(path) for name, path in found.items() if part in (None, name)}
    for name, file in opened.items():
        _show(name, deque(_whole_lines(file), maxlen=lines))
    while follow:
        time.sleep(POLL_SECONDS)
        for name, path in _logs(directory).items():
            if part in (None, name):
                opened[name] = _followed(name, path, opened.get(name))


def start_detached(argv: Sequence[str], environment: Mapping[str, str], state_dir: Path) -> None:
    """Start the stack in the background; return when it is up.

    Raises:
        InvalidInput: the state directory cannot be used.
        typer.Exit: it did not start; its output is printed.
    """
    with _output(state_dir) as output:
        started = subprocess.Popen(  # noqa: S603 - our own program
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            while started.poll() is None and not _is_up(state_dir, started.pid):
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            started.terminate()
            started.wait()
            raise
        output.seek(0)
        err.say(output.read().replace("Ctrl-C stops everything", "`parley down` stops everything").rstrip())
    if started.returncode is not None:
        raise typer.Exit(started.returncode or 1)


def _output(state_dir: Path) -> TextIO:
    """Where the stack in the background prints."""
    if stack_process(state_dir) is not None:
        # The new one will refuse to start: the file is that of the stack that runs.
        return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not among the logs: the stack renames those of the run before.
        # For its owner only: it has the gateway's development key.
        descriptor = os.open(state_dir / "up.out", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise InvalidInput(f"cannot be used: {error.strerror}", where=str(state_dir)) from None
    return os.fdopen(descriptor, "w+", encoding="utf-8", errors="replace")


def _is_up(state_dir: Path, process: int) -> bool:
    return stack_process(state_dir) == process and running_stack(state_dir) is not None


def _logs(directory: Path) -> dict[str, Path]:
    """The logs of the stack's parts, by their names."""
    return {path.stem: path for path in sorted(directory.glob("*.log"))}


def _followed(name: str, path: Path, file: TextIO | None) -> TextIO:
    """The file of a log whose new lines are printed. A stack that starts again renames the logs of the run before."""
    if file is not None:
        _show(name, _whole_lines(file))
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()
    new = _open(path)
    _show(name, _whole_lines(new))
    return new


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8", errors="replace")


def _whole_lines(file: TextIO) -> Iterator[str]:
    """The lines that were written since the last call; a line without its end is left for the next call."""
    while True:
        place = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(place)
            return
        yield line.rstrip("\n")


def _show(name: str, lines: "Iterator[str] | deque[str]") -> None:
    for line in lines:
        out.say(f"{name} | {line}")
    out.file.flush()
