"""Run Parley's parts: `parley up`, `demo`, `worker`, `gateway`, `migrate`, `simulator`.

The application (`workflows/`, `activities/`, `gateway/`, `starter/`, `simulator/`, `worker.py`) is not part of the
importable package. It runs in separate processes, from a clone or from the copy that the wheel carries as data.
"""

import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import parley
from parley import InvalidInput, Settings
from parley.cli.console import out, run
from parley.cli.stack import start_detached
from parley.connection import EMBEDDED, GATEWAY, forget_other_servers, running_stack

# The name of a part, the extra that it needs, and the modules of that; the other parts are of the embedded stack.
STACK = ("the embedded stack", "embedded", EMBEDDED)
EXTRAS = {"worker": ("the worker", "", ()), "gateway": ("the gateway", "gateway", GATEWAY)}
PACKAGE = Path(parley.__file__).resolve().parent

app = typer.Typer()


@app.command()
def up(
    fresh: Annotated[bool, typer.Option("--fresh", help="Start from empty data.")] = False,
    latency: Annotated[float, typer.Option(min=0, help="The simulator's response time in seconds.")] = 0.5,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is up; `parley down` stops it.")
    ] = False,
) -> None:
    """Start Temporal, PostgreSQL, simulator, worker and gateway on this machine, until Ctrl-C."""
    arguments = ["up", "--latency", str(latency), *(["--fresh"] if fresh else [])]
    if detach:
        start_detached(*application_command("starter", arguments), Settings().state_dir)
    else:
        run_starter(*arguments)


@app.command()
def demo(
    keep: Annotated[
        bool | None, typer.Option(help="Keep the stack running after the report; default: only in a terminal.")
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Use the vendors' keys of this shell, which spends money there.")
    ] = False,
) -> None:
    """Start everything, run every job on sample data, print the reports, stop everything."""
    run_starter("demo", *(["--real"] if real else []), *([] if keep is None else ["--keep" if keep else "--no-keep"]))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def worker(context: typer.Context) -> None:
    """Run workers; takes worker.py's options (--role …)."""
    use_running_stack()
    run_application("worker", context.args)


@app.command()
def gateway() -> None:
    """Run the HTTP gateway, until SIGTERM or Ctrl-C."""
    use_running_stack()
    run_application("gateway", [])


@app.command()
def migrate() -> None:
    """Migrate the database to the current schema."""
    from parley.storage.migrate import migrate as run_migrations  # noqa: PLC0415

    use_running_stack()
    url = Settings().database_url
    if url is None:
        raise InvalidInput("is not set: start `parley up`, or set the address of PostgreSQL", where="DATABASE_URL")
    run(run_migrations(url))
    out.say("the schema is up to date")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def simulator(context: typer.Context) -> None:
    """Run only the provider simulator, for tests; takes its own options (--port …)."""
    run_application("simulator", context.args)


def run_starter(*arguments: str) -> NoReturn:
    """Run the embedded stack in another process."""
    debug = ["--debug"] if logging.getLogger().isEnabledFor(logging.DEBUG) else []
    run_application("starter", [*debug, *arguments])


def application_root() -> Path:
    """The directory that holds the application: the wheel's data directory, or else the root of the clone."""
    packaged = PACKAGE / "_application"
    return packaged if packaged.is_dir() else PACKAGE.parent


def run_application(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process with a module of the application, whose exit code becomes this command's.

    Args:
        module: `worker`, `gateway`, `starter`, `simulator` or `simulator.twilio`.
        arguments: its command line.

    Raises:
        InvalidInput: the module needs an extra that is not installed.
    """
    argv, environment = application_command(module, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, argv, environment)  # noqa: S606 - no shell


def application_command(module: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment that run a module of the application.

    The working directory is not on the module search path: a service may have its own `workflows` or `worker`.
    PYTHONSAFEPATH passes this on to every process that the module starts.

    Raises:
        InvalidInput: the module needs an extra that is not installed.
    """
    name, extra, needed = EXTRAS.get(module, STACK)
    if not all(map(find_spec, needed)):
        raise InvalidInput(f"is not installed: pip install 'parley[{extra}]'", where=name)
    path = os.pathsep.join(filter(None, (str(application_root()), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    return [sys.executable, "-m", module, *arguments], environment


def use_running_stack() -> None:
    """Without DATABASE_URL, use the addresses and keys of the stack that `parley up` runs on this machine."""
    settings = Settings()
    if settings.database_url is not None:
        return
    stack = running_stack(settings.state_dir)
    if stack is None:
        return
    forget_other_servers()
    os.environ["DATABASE_URL"] = stack.database_url
    os.environ["TEMPORAL_ADDRESS"] = stack.temporal_address
    set_if_empty("PARLEY_CODEC_KEYS", stack.codec_keys)
    if stack.simulator_url:
        set_if_empty("PARLEY_SIMULATOR_URL", stack.simulator_url)


def set_if_empty(name: str, value: str) -> None:
    """Set a variable of the environment that is not set, or empty: that is the same."""
    os.environ[name] = os.environ.get(name) or value
