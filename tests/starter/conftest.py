"""State directories for embedded stacks."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from starter.embedded import postgres


@pytest.fixture(scope="session")
def system_base() -> Iterator[Path]:
    """A directory of root that every account can reach, in place of `/var/lib/parley`."""
    base = Path(tempfile.mkdtemp(prefix="parley-test-"))
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


@pytest.fixture
def state_dir(tmp_path: Path, system_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory; when the tests run as root, no other account can reach it."""
    monkeypatch.setattr(postgres, "SYSTEM_BASES", (system_base,))
    tmp_path.chmod(0o700)
    return tmp_path / ".parley"
