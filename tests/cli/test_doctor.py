"""`parley doctor` finds what is wrong, and says what to do."""

import base64
import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.cli.command import Run

KEY = "sk-0123456789-very-secret"
CODEC_KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def few_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def checks(parley: Run) -> tuple[int, dict[str, dict[str, str]]]:
    ran = await parley("doctor", "--json")
    assert KEY[:8] not in ran.out
    return ran.code, {check["name"]: check for check in json.loads(ran.out)}


@pytest.mark.usefixtures("worker")
async def test_a_machine_that_is_ready(parley: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    code, found = await checks(parley)
    assert code == 0, found
    checked = "versions limits ports disk stack policy keys encryption gateway database Temporal"
    assert [*found] == checked.split()
    assert "set: OPENAI_API_KEY; not set: ANTHROPIC_API_KEY" in found["keys"]["found"]
    shown = await parley("doctor")
    assert shown.out.count("\n") == len(found)
    assert KEY not in shown.out


async def test_servers_that_do_not_answer(parley: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://parley:x@127.0.0.1:1/parley")
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    code, found = await checks(parley)
    assert code == 1
    for name in ("database", "Temporal", "keys"):
        assert found[name]["ok"] is False
        assert found[name]["advice"]
    assert "problem database: " in (await parley("doctor")).out


async def test_a_wrong_password_is_named(parley: Run, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = make_url(template).set(password="hush")
    monkeypatch.setenv("DATABASE_URL", wrong.render_as_string(hide_password=False))
    code, found = await checks(parley)
    assert (code, "refuses the user or the password" in found["database"]["found"]) == (1, True)
    ran = await parley("costs")
    assert (ran.code, "refuses the user or the password" in ran.err, "hush" in ran.err) == (2, True, False)


async def test_no_servers_at_all(parley: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    code, found = await checks(parley)
    assert code == 1
    assert "parley up --detach" in found["stack"]["advice"]


async def test_a_database_without_the_schema(parley: Run, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", template)
    assert (await checks(parley))[1]["database"]["advice"] == "parley migrate"


@pytest.mark.usefixtures("few_files")
async def test_limits_disk_and_policy(parley: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: used._replace(free=10))
    (tmp_path / "policy.toml").write_text("route = 1")
    monkeypatch.setenv("PARLEY_POLICY_FILE", str(tmp_path / "policy.toml"))
    _, found = await checks(parley)
    assert found["limits"]["advice"].startswith("ulimit -n ")
    assert found["disk"]["ok"] is False
    assert "parley policy" in found["policy"]["advice"]


async def test_a_setting_that_is_not_valid(parley: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_LEASE_SECONDS", "soon")
    code, found = await checks(parley)
    assert (code, "PARLEY_LEASE_SECONDS" in found["settings"]["found"]) == (1, True)


@pytest.mark.parametrize(
    ("given", "ok", "said"),
    [
        ("off", True, "clear text"),
        (f"new:{CODEC_KEY},old:{CODEC_KEY}", True, "encrypted with the key new; new, old decrypt"),
        (CODEC_KEY, False, "must be id:key pairs"),
        ("", False, "PARLEY_CODEC_KEYS: is not set"),
    ],
)
async def test_whether_histories_are_encrypted(
    given: str, ok: bool, said: str, parley: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_CODEC_KEYS", given)
    _, found = await checks(parley)
    assert found["encryption"]["ok"] is ok
    assert said in found["encryption"]["found"]
    assert CODEC_KEY not in str(found)
