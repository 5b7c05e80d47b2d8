"""The keys that workspaces' credentials refer to: in the environment of this process, or in a file."""

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
    """The key under a reference. A file is read every time, which takes less than a tenth of a millisecond: a key that
    was replaced in it is never used again.

    Raises:
        ProviderNotConfigured: there is none, or it cannot be one; naming the variable or the file.
    """
    try:
        key = _from_environment(reference.env) if reference.env else _from_file(reference.file, secrets)
    except ValueError as error:
        raise ProviderNotConfigured(f"{provider.value}: this workspace's own key is missing: {error}") from None
    return key


def _from_environment(name: str) -> SecretStr:
    key = one_word(os.environ.get(name, ""), name=name)
    if key is None:
        raise ValueError(f"{name} is not set")
    return key


def _from_file(name: str | None, secrets: Path | None) -> SecretStr:
    if name is None:
        raise ValueError("its reference cannot be read; see `parley config show`")
    if secrets is None:
        raise ValueError(f"PARLEY_SECRETS_DIR is not set, and {name} is to be read there")
    where = f"{name} in PARLEY_SECRETS_DIR"
    try:
        content = _read(secrets.resolve(strict=True), name)
    except (OSError, RuntimeError) as error:
        # A loop of links is a RuntimeError. Either would tell the whole path.
        reason = error.strerror if isinstance(error, OSError) else "its links go in a circle"
        raise ValueError(f"{where} cannot be read: {reason}") from None
    key = one_word(content.decode("ascii", errors="replace"), name=where)
    if key is None:
        raise ValueError(f"{where} is empty")
    return key


def _read(root: Path, name: str) -> bytes:
    """A small file below the directory. Links are followed, as long as they stay there: mounted secrets are links."""
    path = (root / name).resolve(strict=True)
    if not path.is_relative_to(root):
        raise ValueError(f"{name} leads out of PARLEY_SECRETS_DIR")
    # Neither a link that was put there just now is followed, nor a pipe waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise ValueError(f"{name} in PARLEY_SECRETS_DIR is not a file of at most {MOST_BYTES} bytes")
        return file.read(MOST_BYTES)
