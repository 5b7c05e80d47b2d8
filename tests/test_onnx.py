"""onnxruntime reports nothing to its vendor."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.parts import ROOT

USES = re.compile(r"^\s*(?:import|from) (?:onnxruntime|faster_whisper)\b|import_module\(RUNTIME\)", re.MULTILINE)
VECTOR = "import asyncio; from parley.embedder import Embedder; asyncio.run(Embedder().vectors(['Where is it?']))"


def test_a_process_that_computes_vectors_keeps_no_id_of_the_machine(tmp_path: Path):
    """Where onnxruntime reports its use, it first stores an id and its reports below the home directory."""
    given = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    given.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", VECTOR], env=given, cwd=ROOT, check=True, timeout=120)
    assert [*tmp_path.rglob("*")] == []


def test_each_module_that_loads_it_disables_its_reports_first():
    modules = {path: path.read_text(encoding="utf-8") for path in (ROOT / "parley").rglob("*.py")}
    users = {path.relative_to(ROOT).as_posix(): text for path, text in modules.items() if USES.search(text)}
    assert len(users) == 3, [*users]
    for name, text in users.items():
        before = text[: USES.search(text).start()]  # type: ignore[union-attr]
        assert "disable_telemetry()" in before, name
