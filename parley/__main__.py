"""The program `parley`. Ctrl-C ends it without a traceback, also while its modules load."""

import os
import signal
import sys

from parley.process import leave, loading


def main() -> None:
    """Run the command line: an error becomes one line and exit code 2 (the caller's input) or 1 (a failed run)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_closed_streams()
    with loading():
        from parley.cli.main import execute  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore - a terminal may not know every character
    leave(execute())


def _open_closed_streams() -> None:
    """Where a caller has closed a stream (`<&-`), Python has none: what is read there is empty, and output is lost."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


if __name__ == "__main__":
    main()
