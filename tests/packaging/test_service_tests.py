"""A service tests itself with the fixtures of the installed `parley.testing`."""

from pathlib import Path

from tests.packaging.installed import Installed


async def test_a_services_tests_run_on_the_stack(installed: Installed, service: Path):
    (service / "conftest.py").write_text('pytest_plugins = ["parley.testing"]\n')
    (service / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\npythonpath = .\n")
    refused = {
        "OPENAI_API_KEY": "sk-refused",
        "OPENAI_BASE_URL": "http://127.0.0.1:9",
        "DATABASE_URL": "postgresql://x",
    }
    command = (installed.python, "-m", "pytest", "-q", "checks/answers.py")
    ran = await installed.run(*command, cwd=service, **refused)
    assert ran.code == 0, ran.output
    assert "5 passed" in ran.output
