"""Reads the keys that workspaces' credentials refer to: from the environment of this process, or from a file."""

import os
import stat
from pathlib import Path

from pydantic import SecretStr

from parley.domain.configuration import Reference
from parley.domain.errors import ProviderNotConfigured
from parley.domain.requests import Provider
from parley.settings import one_word

MOST_BYTES = 4096


def read_key(provider: Provider, reference: Reference, secrets: Path | None) -> SecretStr:
    """The key of a reference. A file is read every time, in under 0.1 ms, so that a replaced key is not used again.

    secrets: the directory of key files; None where there is none.

    Raises:
        ProviderNotConfigured: there is no valid key; the message names the variable or the file.
    """
    try:
        key = _from_environment(reference.env) if reference.env else _from_file(reference.file, secrets)
    except ValueError as error:
        raise ProviderNotConfigured(f"{provider.value}: this workspace's own key is missing: {error}") from None
    return key


def _from_environment(name: str) -> SecretStr:
    key = one_word(os.environ.get(name, ""), name=name)
    if key is None:
        raise ValueError(f"{name} is not set: set it in the environment of the worker")
    return key


def _from_file(name: str | None, secrets: Path | None) -> SecretStr:
    if name is None:
        raise ValueError("its reference cannot be read; see `parley config show`")
    if secrets is None:
        raise ValueError(f"PARLEY_SECRETS_DIR is not set: set it to the directory that contains {name}")
    where = f"{name} in PARLEY_SECRETS_DIR"
    try:
        content = _read(secrets.resolve(strict=True), name)
    except (OSError, RuntimeError) as error:
        # A loop of links is a RuntimeError. Both messages would contain the whole path.
        reason = error.strerror if isinstance(error, OSError) else "its links form a loop"
        raise ValueError(f"{where} cannot be read: {reason}") from None
    key = one_word(content.decode("ascii", errors="replace"), name=where)
    if key is None:
        raise ValueError(f"{where} is empty: write the key into it")
    return key


def _read(root: Path, name: str) -> bytes:
    """Read a small file below the directory. Links inside it are followed, since mounted secrets are links."""
    path = (root / name).resolve(strict=True)
    if not path.is_relative_to(root):
        raise ValueError(f"{name} leads out of PARLEY_SECRETS_DIR: use the name of a file in it")
    # A link that replaces the file after the check is not followed; a pipe does not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise ValueError(f"{name} in PARLEY_SECRETS_DIR is not a file of at most {MOST_BYTES} bytes")
        return file.read(MOST_BYTES)
