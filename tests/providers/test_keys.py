"""A workspace's key is found by its reference, or the error names the reference. Messages never contain the key."""

import os
from pathlib import Path

import pytest

from parley.domain.configuration import UNREADABLE, Reference
from parley.domain.errors import ProviderNotConfigured
from parley.domain.requests import Provider
from parley.providers.keys import MOST_BYTES, read_key
from tests.activities.test_secrets import chain

KEY = "sk-acme-0123456789-very-secret"
ENV = Reference(env="ACME_OPENAI_API_KEY")
FILE = Reference(file="acme/openai")


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A directory of secrets with one in it, and one outside."""
    directory = tmp_path / "secrets"
    (directory / "acme").mkdir(parents=True)
    (directory / "acme" / "openai").write_text(f"{KEY}\n")
    (tmp_path / "outside").write_text(KEY)
    return directory


def read(reference: Reference, secrets: Path | None = None) -> str:
    return read_key(Provider.OPENAI, reference, secrets).get_secret_value()


def refusal(reference: Reference, secrets: Path | None = None) -> str:
    with pytest.raises(ProviderNotConfigured) as refused:
        read(reference, secrets)
    assert KEY not in chain(refused.value)
    assert str(refused.value).startswith("openai: ")
    return str(refused.value)


def test_a_key_is_read_from_the_current_environment(monkeypatch: pytest.MonkeyPatch):
    for key in (KEY, "another"):
        monkeypatch.setenv("ACME_OPENAI_API_KEY", f" {key}\n")
        assert read(ENV) == key


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_variable_without_a_key_is_named(monkeypatch: pytest.MonkeyPatch, value: str | None):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    if value is not None:
        monkeypatch.setenv("ACME_OPENAI_API_KEY", value)
    assert "ACME_OPENAI_API_KEY is not set" in refusal(ENV)


def test_an_invalid_key_is_refused_without_being_quoted(monkeypatch: pytest.MonkeyPatch, secrets: Path):
    monkeypatch.setenv("ACME_OPENAI_API_KEY", f"{KEY}\nX-Injected: 1")
    assert "ACME_OPENAI_API_KEY must be one word" in refusal(ENV)
    for content in (f"{KEY}\nX-Injected: 1".encode(), KEY.encode() + b"\xff", f"{KEY} {KEY}".encode()):
        (secrets / "acme" / "openai").write_bytes(content)
        assert "acme/openai in PARLEY_SECRETS_DIR must be one word" in refusal(FILE, secrets)


def test_a_new_key_in_the_file_is_read(secrets: Path):
    assert read(FILE, secrets) == KEY
    (secrets / "acme" / "openai").write_text("another")
    assert read(FILE, secrets) == "another"


def test_links_inside_the_directory_are_followed(secrets: Path):
    """As Kubernetes mounts a secret: the file is a link through a linked directory, which is swapped."""
    (secrets / "..2026").mkdir()
    (secrets / "..2026" / "openai").write_text(KEY)
    (secrets / "..data").symlink_to("..2026")
    (secrets / "openai").symlink_to("..data/openai")
    assert read(Reference(file="openai"), secrets) == KEY
    (secrets.parent / "link").symlink_to(secrets)
    assert read(Reference(file="openai"), secrets.parent / "link") == KEY


def test_a_link_out_of_the_directory_is_refused(secrets: Path):
    (secrets / "out").symlink_to(secrets.parent / "outside")
    (secrets / "up").symlink_to(secrets.parent)
    (secrets / "round").symlink_to("round")
    assert "leads out" in refusal(Reference(file="out"), secrets)
    assert "leads out" in refusal(Reference(file="up/outside"), secrets)
    assert "round" in refusal(Reference(file="round"), secrets)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "acme/../../outside"])
def test_a_stored_path_out_of_the_directory_is_refused(secrets: Path, name: str):
    assert "leads out" in refusal(Reference.model_construct(file=name), secrets)


def test_only_a_small_file_is_read(secrets: Path):
    (secrets / "large").write_text("x" * (MOST_BYTES + 1))
    os.mkfifo(secrets / "pipe")
    (secrets / "empty").touch()
    assert f"at most {MOST_BYTES} bytes" in refusal(Reference(file="large"), secrets)
    assert "not a file" in refusal(Reference(file="pipe"), secrets)
    assert "Is a directory" in refusal(Reference(file="acme"), secrets)
    assert "is empty" in refusal(Reference(file="empty"), secrets)


def test_a_missing_file_is_named_without_its_directory(secrets: Path):
    said = refusal(Reference(file="acme/none"), secrets)
    assert "acme/none in PARLEY_SECRETS_DIR cannot be read: No such file" in said
    assert str(secrets) not in said
    assert str(secrets) not in refusal(FILE, secrets / "nowhere")
    assert "PARLEY_SECRETS_DIR is not set" in refusal(FILE)


def test_an_unreadable_reference_is_refused(secrets: Path):
    assert "parley config show" in refusal(UNREADABLE, secrets)
