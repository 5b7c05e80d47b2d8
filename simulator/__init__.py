"""A test instrument that speaks the providers' wire formats on loopback.

It runs no model and imports nothing of Parley's. `simulator.twilio` plays Twilio and the caller of phone calls.
"""

from simulator.app import create_app
from simulator.config import Config
from simulator.server import serve

__all__ = ["Config", "create_app", "serve"]
