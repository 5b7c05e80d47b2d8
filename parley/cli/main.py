"""`parley`, the command line: finds the command, runs it, and turns errors into exit codes.

A command's module is loaded when the command runs, so that `parley --help` loads none of them.
"""

import logging
import re
import sys
import traceback
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_group

from parley.cli.console import err, log_to_stderr, out
from parley.process import loading

if TYPE_CHECKING:
    from parley.domain.errors import ParleyError

# The codes of the errors that the caller can correct: the input, the settings, or an address.
CORRECTABLE = {
    "ConversationClosed",
    "IdempotencyConflict",
    "InvalidInput",
    "LabelsChanged",
    "MemoryChanged",
    "NotFound",
    "ProviderNotConfigured",
    "UnpricedModel",
    "Unreachable",
}


class Command(NamedTuple):
    """A command of the list: the module of `parley.cli` that has its function, and its line in the list."""

    module: str
    help: str


COMMANDS = {
    "up": Command("run", "Start Temporal, PostgreSQL, simulator, worker and gateway on this machine, until Ctrl-C."),
    "down": Command("stack", "Stop the stack that `parley up` started."),
    "logs": Command("stack", "Print the last lines of the stack's logs."),
    "demo": Command("run", "Start everything, run every job on sample data, print the reports, stop everything."),
    "worker": Command("run", "Run workers; takes worker.py's options (--role …)."),
    "gateway": Command("run", "Run the HTTP gateway, until SIGTERM or Ctrl-C."),
    "migrate": Command("run", "Migrate the database to the current schema."),
    "simulator": Command("run", "Run only the provider simulator, for tests; takes its own options (--port …)."),
    "doctor": Command("doctor", "Check this machine, the settings and the servers, and say what to do."),
    "codec-server": Command("codec", "Decrypt payloads for Temporal's UI and command line, until Ctrl-C."),
    "analyze": Command("jobs", "Analyse one recording, transcript or session, and show the result."),
    "rubrics": Command("rubrics", "List the rubrics by which sessions are rated, with their skills."),
    "import": Command("jobs", "Import a file of chat sessions: the whole file, or nothing."),
    "auto-analyze": Command("jobs", "Import chat sessions and label them consistently."),
    "jobs": Command("jobs", "List jobs, the newest first, with status, cost and the reason of a failure."),
    "progress": Command("jobs", "Show how far a job is."),
    "results": Command("jobs", "Show a job's result and what it cost."),
    "fork": Command(
        "fork", "Label the sessions of a completed run again with another model or prompt, and compare cost and labels."
    ),
    "compare": Command(
        "fork", "Compare two labelling runs on the same sessions: cost, agreement, and labels that only one has."
    ),
    "drift": Command(
        "drift", "Compare the labels of two runs: which are new, gone, or have a larger or smaller share."
    ),
    "pause": Command("jobs", "Pause a labelling run: requests in flight are finished, and no other one starts."),
    "resume": Command("jobs", "Resume a labelling run that is paused, or whose budget was used up."),
    "finish": Command(
        "jobs", "End a labelling run now: merge the labels that there are, and label no further session."
    ),
    "streams": Command("jobs", "Change the number of parallel streams of a labelling run while it runs."),
    "labels": Command("labels", "Show, merge, split, rename and review the labels of a labelling run."),
    "cancel": Command("jobs", "Request that a job stops. Results that are paid for stay stored."),
    "generate": Command("generate", "Answer one request within the budget, with the first model that can."),
    "chat": Command("chat", "Hold a conversation: each line of stdin is a turn, and /help shows the commands."),
    "conversations": Command("conversations", "List conversations, and export one."),
    "phone": Command("phone", "Set up phone numbers, dial, simulate and see phone calls."),
    "policy": Command("generate", "Check the policy file and show its routes."),
    "prompts": Command("generate", "List the prompts, or show one with its placeholders."),
    "report": Command("reports", "Report costs, tokens, latency and errors, and recommendations on them."),
    "feedback": Command(
        "reports", "Rate an answer as good or bad; reports count the rating for its arm of an experiment."
    ),
    "costs": Command("reports", "Show what was spent, and what users were charged."),
    "ledger": Command("reports", "Check the ledger of paid calls."),
    "events": Command("housekeeping", "List events with the state of their delivery, or deliver one again."),
    "alerts": Command("housekeeping", "List the weeks with costs above the policy's `weekly_alert_usd`."),
    "health": Command(
        "housekeeping",
        "Check each provider by a free request from its own workers; exit 1 if a configured provider does not answer.",
    ),
    "forget": Command("housekeeping", "Remove what a user said and was answered, in every table."),
    "budget": Command("budget", "See and set what a workspace may spend."),
    "energy": Command("energy", "See and grant users' energy."),
    "memory": Command("memory", "See, correct and forget what is remembered of a user."),
    "knowledge": Command("knowledge", "Add, list, remove and search the documents that answers are made from."),
    "keys": Command("keys", "Make, list and revoke the keys of the gateway."),
    "config": Command("config", "See and set the configuration of a workspace and its users."),
}


class LoadedCommands(MutableMapping[str, Any]):
    """The commands by name; looking one up loads its module."""

    def __getitem__(self, name: str) -> Any:
        command = COMMANDS[name]
        with loading():
            loaded = get_group(import_module(f"parley.cli.{command.module}").app)
        # The app of a group with commands of its own is in a module of its name, without other commands.
        return loaded.commands.get(name, loaded)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __setitem__(self, name: str, command: Any) -> None:
        raise TypeError("commands are listed in COMMANDS")

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands are listed in COMMANDS")


class Parley(TyperGroup):
    """The group of all commands. The list of them, which `--help` and completion show, loads no module."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "commands": None})
        self.commands = LoadedCommands()

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the interface of Typer
        """The names in their order."""
        return [*COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """A command as the list shows it."""
        listed = COMMANDS.get(cmd_name)
        return TyperCommand(cmd_name, help=listed.help) if listed else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names, loaded."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and self.commands[listed.name or ""], rest


app = typer.Typer(
    name="parley",
    cls=Parley,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Durable conversation intelligence: analyse sessions, follow jobs, read costs.",
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415

        out.say(f"parley {version('parley')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and logs.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback has printed it
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit.")
    ] = False,
) -> None:
    log_to_stderr(logging.DEBUG if debug else logging.ERROR)


def execute(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        return app(given, standalone_mode=False) or 0
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of `parley … | head` has enough
        sys.stdout = None
        return 1
    except Exception as error:  # noqa: BLE001 - every error is one line
        return report_error(error, debug="--debug" in given)


def report_error(error: Exception, *, debug: bool) -> int:
    """Print the error as one line; returns the exit code."""
    from pydantic import ValidationError  # noqa: PLC0415

    from parley.domain.errors import ParleyError  # noqa: PLC0415
    from parley.settings import problem  # noqa: PLC0415

    if debug:
        err.say(traceback.format_exc().rstrip())
    if isinstance(error, typer.Abort):
        err.say("parley: not confirmed: nothing was changed")
        return 1
    if isinstance(error, TyperException):
        return _report_usage(error)
    if isinstance(error, ParleyError):
        err.say(f"parley: {error}")
        return exit_code(error)
    if isinstance(error, ValidationError):
        err.say(f"parley: {problem(error)}")
        return 2
    err.say(f"parley: unexpected {type(error).__name__}: {error} (--debug shows the traceback)")
    return 1


def _report_usage(error: TyperException) -> int:
    """A wrong option or argument. The error of a command without arguments has no message: its help is printed."""
    context = getattr(error, "ctx", None)
    # A choice that does not exist has the words of pydantic before its own.
    if message := error.format_message().replace("Value error, ", "", 1):
        if re.search(r"No such option: -[.\d]", message):
            message = f"{message}: a negative number is not accepted here"
        err.say(f"parley: {message} (see {context.command_path if context else 'parley'} --help)")
    return error.exit_code


def exit_code(error: "ParleyError") -> int:
    """2 where the caller can correct the input or an address, 1 where a run failed.

    A failed job counts by the error that stopped it. `ErrorKind` is not enough here: it is `INPUT` for a request that a
    provider refused, which is a failed run, because Parley composed the request.
    """
    return 2 if getattr(error, "reason", error.code) in CORRECTABLE else 1
