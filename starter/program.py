"""The program that `parley up` and `parley demo` execute."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from pydantic import ValidationError

from parley.cli.console import err, log_to_stderr, out
from parley.cli.main import report_error
from parley.domain.errors import ParleyError
from parley.settings import Settings
from starter.local import demo, forget_vendors, up


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stack; return the exit code."""
    options = _parser().parse_args(arguments)
    log_to_stderr(logging.DEBUG if options.debug else logging.ERROR)
    try:
        asyncio.run(_run(options))
    except KeyboardInterrupt:
        return 130
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 1
    except (ParleyError, ValidationError) as error:
        return report_error(error, debug=options.debug)
    return 0


def _run(options: argparse.Namespace) -> Coroutine[Any, Any, None]:
    if options.command == "up":
        return up(Settings(), fresh=options.fresh, latency=options.latency, console=err)
    if not options.real:
        forget_vendors()
    keep = sys.stdin.isatty() if options.keep is None else options.keep
    return demo(Settings(), keep=keep, console=out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parley", description="Run PostgreSQL, Temporal, the simulator and a worker on this machine."
    )
    parser.add_argument("--debug", action="store_true")
    commands = parser.add_subparsers(dest="command", required=True)
    started = commands.add_parser("up")
    started.add_argument("--fresh", action="store_true")
    started.add_argument("--latency", type=float, default=0.5)
    shown = commands.add_parser("demo")
    shown.add_argument("--real", action="store_true")
    shown.add_argument("--keep", action=argparse.BooleanOptionalAction)
    return parser
