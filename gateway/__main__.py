"""`python -m gateway`: the program behind `parley gateway`."""

import asyncio
import logging
import sys

from pydantic import ValidationError

from gateway.boundary import GatewayFormatter
from gateway.server import run
from parley.domain.errors import ParleyError
from parley.process import leave
from parley.settings import Settings, problem


def main() -> int:
    """Run the gateway; returns the exit code."""
    handler = logging.StreamHandler()
    handler.setFormatter(GatewayFormatter())
    logging.basicConfig(force=True, level=logging.INFO, handlers=[handler])
    for quiet in ("httpx", "httpx2", "uvicorn.error"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    try:
        asyncio.run(run(Settings()))
    except ValidationError as error:
        print(f"gateway: {problem(error)}", file=sys.stderr)  # noqa: T201
        return 2
    except ParleyError as error:
        print(f"gateway: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    leave(main())
