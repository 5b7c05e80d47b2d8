"""The embedded stack: PostgreSQL, Temporal, the simulator and a worker on one machine, without Docker.

`starter.embedded.stack` starts and stops it and needs the extra `embedded`; this module does not.
"""

from parley.connection import Addresses, running_stack
from starter.embedded.state import PartFailed, StackRunning

__all__ = ["Addresses", "PartFailed", "StackRunning", "running_stack"]
