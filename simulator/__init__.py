"""A test instrument that speaks the providers' wire formats on loopback. It is not a model."""

from simulator.app import create_app
from simulator.config import Config
from simulator.server import serve

__all__ = ["Config", "create_app", "serve"]
