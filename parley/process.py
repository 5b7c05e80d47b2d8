"""How a process of Parley is started from a shell, and how it ends. It loads little, so that `--help` is quick."""

import gc
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn


def command(*arguments: str) -> str:
    """A command of `parley` that can be pasted into a shell, also where the program is not on the search path."""
    installed = Path(sys.executable).with_name("parley")
    found = shutil.which("parley")
    is_found = found is not None and Path(found).resolve() == installed.resolve()
    return shlex.join(["parley" if is_found or not installed.exists() else str(installed), *arguments])


@contextmanager
def loading() -> Iterator[None]:
    """Load modules without garbage collections: modules stay, and to scan them took a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def run_service(name: str, service: Callable[[], Coroutine[Any, Any, None]], formatter: logging.Formatter) -> int:
    """Log to stderr and run a service to its end.

    Args:
        name: what its messages begin with.
        service: reads the settings, and runs.
        formatter: of its log lines.

    Returns:
        The exit code: 2 where the settings are wrong, or the service cannot run; the reason is one line on stderr.
    """
    import asyncio  # noqa: PLC0415
    import faulthandler  # noqa: PLC0415

    from pydantic import ValidationError  # noqa: PLC0415

    from parley.domain.errors import ParleyError  # noqa: PLC0415
    from parley.settings import problem  # noqa: PLC0415

    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(force=True, level=logging.INFO, handlers=[handler])
    for library in ("httpx", "httpx2", "uvicorn.error"):  # they log each URL, and a webhook's may contain a token
        logging.getLogger(library).setLevel(logging.WARNING)
    faulthandler.enable()  # a crash in native code logs where each thread was
    try:
        asyncio.run(service())
    except ValidationError as error:
        print(f"{name}: {problem(error)}", file=sys.stderr)  # noqa: T201
        return 2
    except ParleyError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def leave(code: int) -> NoReturn:
    """End the process with this exit code, without the interpreter's shutdown.

    Threads of the SDK's core can abort the interpreter during its shutdown (sdk-python#300), and SIGABRT would replace
    the command's exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
