"""Start a part of the stack: drop privileges, request a signal for the death of the parent, then exec the part.

A separate program (`python -I -S child.py PARENT DEATH_SIGNAL UID GID COMMAND…`), because code between fork
and exec may hang in a parent that has threads. The process id stays the same through exec.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, death_signal: int, uid: int, gid: int, argv: list[str]) -> None:
    """Exec `argv` as the given account (-1: unchanged); `death_signal` ends it when the parent dies."""
    os.umask(0o077)
    if uid != -1:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":  # after setuid, which resets it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        sys.exit("the parent died while this part was starting")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would inherit that
    try:
        os.execv(argv[0], argv)  # noqa: S606  no shell is wanted
    except OSError as error:
        sys.exit(f"cannot run {argv[0]}: {error.strerror}")


if __name__ == "__main__":
    numbers = [int(number) for number in sys.argv[1:5]]
    main(numbers[0], numbers[1], numbers[2], numbers[3], sys.argv[5:])
