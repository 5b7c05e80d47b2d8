"""How a process of Parley ends. It loads nothing of Temporal's, so that `parley --help` stays quick."""

import logging
import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process with this exit code, without the interpreter's shutdown.

    Threads of the SDK's core can abort the interpreter during its shutdown (sdk-python#300), and SIGABRT would replace
    the command's exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
