"""The embedded stack: PostgreSQL, Temporal, the simulator and a worker on one machine, without Docker.

`starter.embedded.stack` starts and stops it and needs the extra `embedded`; what is imported here does not,
so that every command can find a stack that another one started.
"""

from parley.stack_state import Addresses, PartFailed, StackRunning, running_stack

__all__ = ["Addresses", "PartFailed", "StackRunning", "running_stack"]
