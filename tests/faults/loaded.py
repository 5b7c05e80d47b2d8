"""What a forked process begins with: importing this module loads Parley's."""

from tests.faults.processes import load

load()
