"""The production files agree with the compose specification, the code and each other. No Docker engine is needed."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from ruamel.yaml import YAML
from sqlalchemy.pool import QueuePool
from typer.main import get_command

from parley.cli.main import app
from parley.domain.requests import REMOTE_PROVIDERS, Provider
from parley.settings import OTHER_VARIABLES, Settings, variable
from parley.storage.database import Database
from parley.visibility import DEFINITIONS
from starter.embedded.services import DYNAMIC_CONFIG, NAMESPACE
from tests.parts import ROOT
from worker import ROLES

COMPOSE = ROOT / "docker-compose.yml"
TEMPORAL_CLIENT = {"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"}
# `${NAME}`, `${NAME:-default}` and `${NAME:?what to do}`, not the escaped `$$NAME`.
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<rest>[^}]*))?\}")
SECRET = re.compile(r"KEY|PASSWORD|PWD|SECRET(?!S_DIR)|TOKEN")
UNITS = {"s": 1, "m": 60, "h": 3600}


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def resolved(text: str) -> str:
    """`text` as compose reads it in an empty environment, with a placeholder for a required variable."""
    return VARIABLE.sub(lambda found: found["rest"] if found["how"] == ":-" else "demanded", text)


def duration(text: str) -> timedelta:
    return timedelta(seconds=sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([smh])", text)))


COMPOSED = read_yaml(COMPOSE)
SERVICES: dict[str, dict[str, Any]] = COMPOSED["services"]
OURS = {name: service for name, service in SERVICES.items() if "parley" in service["image"]}
WORKERS = {name: service for name, service in OURS.items() if service.get("command", [""])[0] == "worker"}
# Tests loop over these: without any they would check nothing.
assert OURS and WORKERS and OURS.keys() < SERVICES.keys()


# Fields that no variable of the host sets in a container, and why.
NOT_OF_CONTAINERS = {
    "state_dir": "of the embedded stack",
    "simulator_url": "set for `simulated` only",
    "ready_file": "set in the image",
    "gateway_host": "all addresses of the container; the port is published on loopback",
    "gateway_port": "fixed in the container; the variable is the published port",
    "spool_dir": "a volume of the gateway",
    "failpoints": "for tests only",
}
# The services that choose a provider, or call one that their name does not say.
CALLERS = ("workflows", "storage", "gateway")
AUTO_ANALYZE = ("discovery_", "parallel_", "sessions_per_stream", "max_staleness")


def readers(field: str) -> set[str]:
    """The services whose processes read a field of the settings."""
    provider = next((one.value for one in Provider if field.startswith(f"{one.value}_")), None)
    if provider is not None:
        return {*CALLERS, provider}
    by_prefix = {
        ("database_url", "codec_keys"): OURS.keys() - {"simulator"},
        ("webhook_",): {"workflows", "storage", "simulated"},
        ("secrets_dir",): {*CALLERS, *(one.value for one in Provider)},
        ("gateway_", "spool_", "on_ledger_down", "speech_clips_dir"): {"gateway"},
        (*AUTO_ANALYZE, "twilio_", "phone_", "stream_"): {"cli", "gateway"},
        ("audio_hosts",): {"cli", *WORKERS},
    }
    return next((names for prefixes, names in by_prefix.items() if field.startswith(prefixes)), set(WORKERS))


def roles(service: dict[str, Any]) -> list[str]:
    """The roles of a worker's service: all of them unless its command names some."""
    words = service["command"]
    return [role for option, role in pairwise(words) if option == "--role"] or list(ROLES)


def mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    return [tuple(resolved(volume).split(":")[:2]) for volume in service.get("volumes", [])]


# --- The compose file


def test_it_is_a_valid_compose_file():
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_refuses_a_misspelt_field(tmp_path: Path):
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("stop_grace_period", "stop_grace_perod"))
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [checker, "--builtin-schema", "vendor.compose-spec", wrong]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 1


def test_every_role_has_a_service_with_its_name():
    single = {name: roles(service) for name, service in WORKERS.items() if len(roles(service)) == 1}
    assert single == {role: [role] for role in ROLES}
    assert {provider.value for provider in Provider} <= single.keys()


def test_our_commands_exist():
    used = {service["command"][0] for service in OURS.values() if "command" in service}
    assert used
    assert used <= {*get_command(app).commands}  # type: ignore[attr-defined]


def test_our_services_are_given_variables_that_they_read():
    known = {variable(name) for name in Settings.model_fields} | TEMPORAL_CLIENT | OTHER_VARIABLES.keys()
    given = {name: service["environment"].keys() for name, service in OURS.items() if "environment" in service}
    assert given.keys() >= WORKERS.keys()
    assert {name: variables - known for name, variables in given.items() if variables - known} == {}


@pytest.mark.parametrize("field", sorted(Settings.model_fields.keys() - NOT_OF_CONTAINERS.keys()))
def test_a_setting_reaches_every_service_that_needs_it(field: str):
    holders = {name for name, service in SERVICES.items() if variable(field) in service.get("environment", {})}
    assert readers(field) <= holders


@pytest.mark.parametrize("field", sorted(Settings.model_fields.keys() - NOT_OF_CONTAINERS.keys() - {"database_url"}))
def test_a_setting_of_the_host_is_passed_on(field: str):
    """A path of the host is mounted at the path that the variable has in the container."""
    for name in sorted(readers(field)):
        value = str(SERVICES[name]["environment"][variable(field)])
        hosts = {found["name"] for found in VARIABLE.finditer(value)}
        if not hosts:
            [volume] = [one for one in SERVICES[name]["volumes"] if one.removesuffix(":ro").endswith(f":{value}")]
            hosts = {found["name"] for found in VARIABLE.finditer(volume)}
        assert hosts == {variable(field)}, name


def test_our_services_start_with_nothing_but_the_passwords_set(monkeypatch: pytest.MonkeyPatch):
    for name, service in OURS.items():
        with monkeypatch.context() as patch:
            for key, value in service.get("environment", {}).items():
                patch.setenv(key, resolved(value))
            given = Settings()
        assert (given.database_url is None) == (name == "simulator")


def test_a_key_reaches_its_providers_worker_and_those_that_choose_or_call_any():
    for provider in REMOTE_PROVIDERS:
        key = f"{provider.name}_API_KEY"
        holders = {name for name, service in SERVICES.items() if key in service.get("environment", {})}
        assert holders == {*CALLERS, provider.value}


def test_a_provider_has_the_same_variables_in_all_services():
    for provider, name in product(Provider, CALLERS):
        assert SERVICES[provider.value]["environment"].items() <= SERVICES[name]["environment"].items()


def test_a_worker_has_time_to_drain():
    for name, service in WORKERS.items():
        assert duration(resolved(service["stop_grace_period"])).total_seconds() > Settings().drain_seconds, name


def test_workers_come_back_and_wait_for_the_schema_and_the_namespace():
    for name, service in WORKERS.items():
        assert service["restart"] == "unless-stopped", name
        for before in ("migrate", "temporal-namespace"):
            assert service["depends_on"][before]["condition"] == "service_completed_successfully", name


def test_our_ready_file_does_not_outlive_a_restart():
    directory = Path(dockerfile().environment["PARLEY_READY_FILE"]).parent
    for name, service in WORKERS.items():
        assert str(directory) in {mount.split(":")[0] for mount in service["tmpfs"]}, name


def test_dependencies_can_meet_their_condition():
    dependencies = [
        (name, before, how["condition"])
        for name, service in SERVICES.items()
        for before, how in service.get("depends_on", {}).items()
    ]
    assert {condition for _, _, condition in dependencies} == {"service_healthy", "service_completed_successfully"}
    for name, before, condition in dependencies:
        needed = SERVICES[before]
        assert set(needed.get("profiles", [])) <= set(SERVICES[name].get("profiles", [])), f"{name} needs {before}"
        if condition == "service_healthy":
            assert "test" in needed["healthcheck"], f"{name} waits for {before}'s health"
        else:
            assert needed["restart"].startswith("on-failure"), f"{before} ends"


def test_a_shared_network_is_that_of_a_service():
    sharing = {name: service for name, service in SERVICES.items() if "network_mode" in service}
    assert sharing
    for name, service in sharing.items():
        mode, _, other = service["network_mode"].partition(":")
        assert (mode, other in service["depends_on"]) == ("service", True), name


def test_images_are_pinned():
    for name, service in SERVICES.items():
        image, _, tag = resolved(service["image"]).rpartition(":")
        assert image, name
        assert re.search(r"\d+\.\d+", tag), name


def test_temporal_images_have_one_version():
    versions = dict(resolved(service["image"]).rsplit(":", 1) for service in SERVICES.values())
    assert versions["temporalio/server"] == versions["temporalio/admin-tools"]


def test_one_service_builds_the_image_of_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {resolved(service["image"]) for service in OURS.values()} == {f"parley:{version}"}
    assert [name for name, service in SERVICES.items() if "build" in service] == ["migrate"]


def test_ports_are_published_on_loopback_only():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    for port in published:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", resolved(port)), port
    taken = [resolved(port).split(":")[1] for port in published]
    assert len(taken) == len(set(taken))


def test_no_service_shares_the_host():
    for name, service in SERVICES.items():
        assert not service.keys() & {"privileged", "pid", "ipc", "devices"}, name
    sources = {source for service in SERVICES.values() for source, _ in mounts(service)}
    assert sources > set(COMPOSED["volumes"])
    for source in sources - set(COMPOSED["volumes"]):
        assert (ROOT / source).exists(), source


def test_no_secret_is_in_the_file():
    secrets = [
        (name, key, value)
        for name, service in SERVICES.items()
        for key, value in service.get("environment", {}).items()
        if SECRET.search(key)
    ]
    assert secrets
    for name, key, value in secrets:
        found = VARIABLE.fullmatch(value)
        assert found, f"{key} of {name}"
        assert found["how"] == ":?" or not found["rest"], f"{key} of {name} has a default"
    addresses = re.findall(r"://\w+:(.+)@", COMPOSE.read_text())
    assert addresses
    for password in addresses:
        assert VARIABLE.fullmatch(password), "a password in an address"


def test_a_password_is_required_and_has_no_default():
    passwords = [found for found in VARIABLE.finditer(COMPOSE.read_text()) if "PASSWORD" in found["name"]]
    assert passwords
    for found in passwords:
        assert found["how"] == ":?", found.group()


def test_search_attributes_and_namespace_match_the_code():
    service = SERVICES["temporal-namespace"]
    assert service["command"] == [*DEFINITIONS]
    spaces = {service["environment"]["TEMPORAL_NAMESPACE"] for service in (service, *WORKERS.values())}
    assert spaces == {NAMESPACE}


def test_temporal_is_configured_as_it_is_tested():
    setup = dict(mounts(SERVICES["temporal"]))
    file = Path(SERVICES["temporal"]["environment"]["DYNAMIC_CONFIG_FILE_PATH"])
    (source,) = (source for source, target in setup.items() if file.is_relative_to(target))
    written = {
        f"{key}={json.dumps(entry['value'])}"
        for key, entries in read_yaml(ROOT / source / file.name).items()
        for entry in entries
    }
    assert written
    assert written == {value for value in DYNAMIC_CONFIG if value.startswith("matching.")}


@pytest.mark.parametrize("name", ["temporal-schema", "temporal-namespace"])
def test_a_setup_script_is_valid_shell(name: str):
    shell, script = SERVICES[name]["entrypoint"]
    ((source, target),) = mounts(SERVICES[name])
    path = ROOT / source / Path(script).relative_to(target)
    assert subprocess.run([shell, "-n", path], capture_output=True, check=False, timeout=10).returncode == 0


def test_postgres_has_a_connection_for_every_worker():
    database = Database(SecretStr("postgresql://user@localhost/database"))
    pools = [engine.pool for engine in (database.engine, database._bulk_engine)]  # pyright: ignore[reportPrivateUsage]
    assert all(isinstance(pool, QueuePool) for pool in pools)
    most = sum(pool.size() + pool._max_overflow for pool in pools)  # type: ignore[attr-defined]
    (limit,) = (int(word.partition("=")[2]) for word in SERVICES["postgres"]["command"] if "max_connections=" in word)
    assert limit > most * (len(WORKERS) + 2)  # and the gateway, and a command


# --- The Dockerfile


@dataclass(frozen=True)
class Stage:
    """What follows one FROM."""

    base: str
    steps: list[tuple[str, str]]

    def all(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.steps if name == instruction]

    def last(self, instruction: str) -> str:
        return self.all(instruction)[-1]

    @property
    def environment(self) -> dict[str, str]:
        words = [word for line in self.all("ENV") for word in shlex.split(line)]
        return {name: value for name, _, value in (word.partition("=") for word in words)}


def dockerfile() -> Stage:
    """The final stage: the one that runs."""
    return stages()[-1]


def stages() -> list[Stage]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            found.append(Stage(rest, []))
        elif name:
            found[-1].steps.append((name, " ".join(rest.split())))
    return found


def context() -> list[str]:
    """What .dockerignore includes. It excludes everything first."""
    rules = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.strip() and not line.startswith("#")
    ]
    assert rules[0] == "*"
    return [rule[1:] for rule in rules if rule.startswith("!")]


def test_the_base_is_a_pinned_slim_python_that_the_project_supports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bases = {stage.base.split()[0] for stage in stages()}
    assert len(stages()) == 2
    (base,) = bases
    found = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-\w+", base)
    assert found
    assert project["requires-python"] == f">={found[1]}"


def test_packages_are_installed_by_hash_and_nothing_is_compiled():
    installs = [command for stage in stages() for command in stage.all("RUN") if " install " in command]
    (locked,) = (command for command in installs if "requirements.lock" in command)
    assert "--require-hashes" in locked
    assert "--only-binary :all:" in locked
    (own,) = (command for command in installs if command.split(" install ")[1].startswith("--no-deps"))
    assert "--no-build-isolation ." in own, "would download a build backend without a hash"


def test_the_final_stage_copies_the_environment_and_installs_nothing():
    final = dockerfile()
    assert final.all("COPY")
    assert all(copied.startswith("--from=build ") for copied in final.all("COPY"))
    assert not any(re.search(r"\b(pip|apt-get|apt|curl|wget)\b", command) for command in final.all("RUN"))
    assert not final.all("ADD")


def test_it_does_not_run_as_root():
    user = dockerfile().last("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, so that an orchestrator can check that it is not root"
    uid, gid = user.split(":")
    for service in WORKERS.values():
        assert any(f"uid={uid},gid={gid}" in mount for mount in service["tmpfs"])


def test_output_is_not_buffered_and_the_cli_is_the_entrypoint():
    final = dockerfile()
    assert final.environment["PYTHONUNBUFFERED"] == "1"
    assert json.loads(final.last("ENTRYPOINT")) == ["parley"]
    assert "parley" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def test_a_worker_is_healthy_once_it_polls():
    check = dockerfile().last("HEALTHCHECK")
    assert "$PARLEY_READY_FILE" in check
    assert "ready_file" in Settings.model_fields


def test_what_is_copied_exists():
    copies = [copied.split() for stage in stages() for copied in stage.all("COPY") if not copied.startswith("--from=")]
    assert copies
    for source in (source for *sources, _ in copies for source in sources):
        assert (ROOT / source).exists(), source
        assert source == "." or source in context(), source


def test_the_build_gets_every_module_and_nothing_else():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {*wheel["packages"], *wheel["force-include"]}
    wanted |= {"pyproject.toml", "requirements.lock", pyproject["project"]["readme"], "LICENSE"}
    assert set(context()) == wanted
    assert "." in [source for copied in stages()[0].all("COPY") for source in copied.split()[:-1]]


def test_the_lock_has_the_build_backend():
    """The image is built without isolation, from what is locked."""
    assert re.search(r"(?m)^hatchling==", (ROOT / "requirements.lock").read_text())
