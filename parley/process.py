"""How a process of Parley is started from a shell, and how it ends. It loads little, so that `--help` is quick."""

import logging
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import NoReturn


def command(*arguments: str) -> str:
    """A command of `parley` that can be pasted into a shell, also where the program is not on the search path."""
    installed = Path(sys.executable).with_name("parley")
    found = shutil.which("parley")
    is_found = found is not None and Path(found).resolve() == installed.resolve()
    return shlex.join(["parley" if is_found or not installed.exists() else str(installed), *arguments])


def leave(code: int) -> NoReturn:
    """End the process with this exit code, without the interpreter's shutdown.

    Threads of the SDK's core can abort the interpreter during its shutdown (sdk-python#300), and SIGABRT would replace
    the command's exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
