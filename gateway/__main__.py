"""`python -m gateway`: the program behind `parley gateway`."""

from gateway.boundary import GatewayFormatter
from gateway.server import run
from parley.process import leave, run_service
from parley.settings import Settings


def main() -> int:
    """Run the gateway; returns the exit code."""
    return run_service("gateway", lambda: run(Settings()), GatewayFormatter())


if __name__ == "__main__":
    leave(main())
