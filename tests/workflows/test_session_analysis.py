"""The job through its public face: the typed client, real parts underneath."""

from pathlib import Path

import pytest

from parley import Client, Strategy
from starter.reading import read_session
from tests.conftest import SimulatorAdmin
