"""Parley as others install it: a wheel in a fresh virtual environment."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.installed import Installed, build_wheel, install

SERVICE = Path(__file__).parent / "service"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel: Path) -> Iterator[Installed]:
    """Parley's wheel in a fresh virtual environment, in a place that every account can reach."""
    with tempfile.TemporaryDirectory(prefix="parley-test-") as directory:
        Path(directory).chmod(0o755)
        yield install(wheel, Path(directory) / "venv")


@pytest.fixture
def service(reachable: Path) -> Path:
    """A working directory with a service whose packages have the names of Parley's folders."""
    return Path(shutil.copytree(SERVICE, reachable / "service", ignore=shutil.ignore_patterns("__pycache__")))
