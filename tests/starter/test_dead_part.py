"""The error after a part of a real stack died."""

import os
import signal
from pathlib import Path

import pytest

from parley.visibility import DEFINITIONS
from starter.embedded import PartFailed
from starter.embedded.stack import EmbeddedStack
from starter.embedded.state import StateDir

WORKER = """
import os, pathlib, signal
print("an error of a call, long over", flush=True)
pathlib.Path(os.environ["PARLEY_READY_FILE"]).touch()
signal.pause()
"""


@pytest.mark.parametrize("temporary", [False, True])
async def test_the_log_is_named_or_quoted_when_it_is_removed(
    temporary: bool, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last log line may not be the cause of the failure."""
    (tmp_path / "stub_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names, said = DEFINITIONS, list[str]()
    running = EmbeddedStack(
        state_dir,
        search_attributes=names,
        simulator=None,
        worker="stub_worker",
        temporary=temporary,
        signals=False,
        on_progress=said.append,
    )
    with pytest.raises(PartFailed) as failure:
        async with running:
            os.kill(StateDir(state_dir).read_stack().processes["worker"].pid, signal.SIGKILL)
            await running.wait()
    log = state_dir / "logs" / "worker.log"
    kept, gone = f" (log: {log})", "; its last log lines were:\n  an error of a call, long over"
    assert str(failure.value) == f"worker died: it was ended by SIGKILL{gone if temporary else kept}"
    assert log.exists() is not temporary
    assert "worker died: it was ended by SIGKILL" in said
