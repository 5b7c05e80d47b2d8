"""`python -m starter up|demo`. Ctrl-C ends it without a traceback, also while its modules load."""

import signal

from parley.process import leave

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from starter.program import main

    leave(main())
