"""`parley`, the command line: builds the app from its command groups, runs it, and turns errors into exit codes."""

import logging
import sys
import traceback
from typing import Annotated

import typer
from pydantic import ValidationError

from parley import IdempotencyConflict, InvalidInput, JobFailed, NotFound, ParleyError, UnpricedModel, Unreachable
from parley.cli import budget, config, energy, generate, housekeeping, jobs, reports, run
from parley.cli.console import err
from parley.connection import leave
from parley.domain.errors import ProviderNotConfigured
from parley.settings import problem

# The codes of the errors that the caller can correct: the input, the settings, or an address.
CORRECTABLE = {
    error.__name__
    for error in (IdempotencyConflict, InvalidInput, NotFound, ProviderNotConfigured, UnpricedModel, Unreachable)
}

app = typer.Typer(
    name="parley",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Durable conversation intelligence: analyse sessions, follow jobs, read costs.",
)
for group in (run, jobs, generate, reports, housekeeping):
    app.add_typer(group.app)
app.add_typer(budget.app, name="budget")
app.add_typer(energy.app, name="energy")
app.add_typer(config.app, name="config")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and logs.")] = False,
) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR)


def main() -> None:
    """The console script: an error becomes one line and exit code 2 (the caller's input) or 1 (a failed run)."""
    leave(execute())


def execute(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        app(arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except (ParleyError, ValidationError) as error:
        return report_error(error, debug="--debug" in (arguments or sys.argv))
    return 0


def report_error(error: ParleyError | ValidationError, *, debug: bool) -> int:
    """Print the error as one line; returns the exit code."""
    if debug:
        traceback.print_exc()
    if isinstance(error, ValidationError):
        err.print(f"parley: {problem(error)}", markup=False, highlight=False, soft_wrap=True)
        return 2
    err.print(f"parley: {error}", markup=False, highlight=False, soft_wrap=True)
    return exit_code(error)


def exit_code(error: ParleyError) -> int:
    """2 where the caller can correct the input or an address, 1 where a run failed.

    A failed job counts by the error that stopped it. `ErrorKind` is not enough here: it is `INPUT` for a request that a
    provider refused, which is a failed run, because Parley composed the request.
    """
    code = error.reason if isinstance(error, JobFailed) else error.code
    return 2 if code in CORRECTABLE else 1


if __name__ == "__main__":
    main()
