"""The environment: one rule for names, and errors that name the variable."""

import pytest
from pydantic import SecretStr, ValidationError

from parley.settings import Settings, problem, variable


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("lease_seconds", "PARLEY_LEASE_SECONDS"),
        ("state_dir", "PARLEY_STATE_DIR"),
        ("openai_api_key", "OPENAI_API_KEY"),
        ("local_model", "LOCAL_MODEL"),
        ("discovery_min_sessions", "DISCOVERY_MIN_SESSIONS"),
        ("parallel_stream_count", "PARALLEL_STREAM_COUNT"),
        ("sessions_per_stream", "SESSIONS_PER_STREAM"),
        ("max_staleness", "MAX_STALENESS"),
        ("database_url", "DATABASE_URL"),
    ],
)
def test_variable_has_the_prefix_unless_the_field_is_listed_as_unprefixed(field: str, name: str):
    assert field in Settings.model_fields
    assert variable(field) == name


def test_values_are_read_from_their_variables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PARLEY_LEASE_SECONDS", "7")
    monkeypatch.setenv("OPENAI_MODEL", "gpt-4.1")
    assert (Settings().lease_seconds, Settings().openai_model) == (7, "gpt-4.1")


def test_a_variable_without_its_prefix_is_ignored(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BREAKER_FAILURES", "9")
    assert Settings().breaker_failures == Settings.model_fields["breaker_failures"].default


def test_arguments_override_environment_variables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PARLEY_LEASE_SECONDS", "7")
    assert Settings(lease_seconds=5).lease_seconds == 5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PARLEY_LEASE_SECONDS", "soon", "PARLEY_LEASE_SECONDS: Input should be a valid number"),
        ("OPENAI_API_KEY", "two words", "OPENAI_API_KEY must be one word"),
        ("PARLEY_WEBHOOK_URL", "ftp://example.org", "PARLEY_WEBHOOK_URL must be a URL"),
        ("PARLEY_LEASE_SECOND", "5", "PARLEY_LEASE_SECOND is not a setting: did you mean PARLEY_LEASE_SECONDS?"),
        ("PARLEY_OPENAI_API_KEY", "key", "PARLEY_OPENAI_API_KEY is not a setting: did you mean OPENAI_API_KEY?"),
        ("PARLEY_WORKSPACES", "acme", "PARLEY_WORKSPACES is not a setting: did you mean PARLEY_WORKSPACE?"),
    ],
)
def test_problem_names_the_variable(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert problem(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["PARLEY_PORT", "PARLEY_STORAGE_PORT", "PARLEY_GATEWAY_PORT", "PARLEY_STREAM_PORT"])
def test_the_links_of_services_in_a_cluster_are_ignored(name: str, monkeypatch: pytest.MonkeyPatch):
    """Kubernetes sets `PARLEY_GATEWAY_PORT` for a service named parley-gateway."""
    monkeypatch.setenv(name, "tcp://10.0.0.1:8700")
    given = Settings()
    assert (given.gateway_port, given.stream_port) == (8700, 0)


def test_another_setting_that_looks_like_a_link_is_not_ignored(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PARLEY_WEBHOOK_URL", "tcp://10.0.0.1:8700")
    with pytest.raises(ValidationError, match="PARLEY_WEBHOOK_URL"):
        Settings()


@pytest.mark.parametrize("name", ["PARLEY_SERVICE_HOST", "PARLEY_PORT_8080_TCP", "PARLEY_ACME_OPENAI_API_KEY"])
def test_variables_that_others_set_are_ignored(name: str, monkeypatch: pytest.MonkeyPatch):
    """Kubernetes sets `PARLEY_SERVICE_HOST` for a service named parley; a workspace may choose its key's variable."""
    monkeypatch.setenv(name, "x")
    Settings()


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_a_number_is_finite(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PARLEY_PROVIDER_TIMEOUT_SECONDS", value)
    with pytest.raises(ValidationError, match="finite number"):
        Settings()


def test_a_value_from_a_file_may_end_with_a_newline(monkeypatch: pytest.MonkeyPatch):
    for name, value in (
        ("DATABASE_URL", "postgresql://a\n"),
        ("PARLEY_CODEC_KEYS", "off\n"),
        ("OPENAI_BASE_URL", " \n"),
    ):
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.database_url == SecretStr("postgresql://a")
    assert settings.codec_keys == SecretStr("off")
    assert settings.openai_base_url is None
