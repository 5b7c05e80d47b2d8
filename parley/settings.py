"""Every environment variable that Parley reads, typed, in one place."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from parley.domain.errors import InvalidInput
from parley.domain.events import signing_key
from parley.domain.generate.policy import Policy, parse_policy

DEFAULT_POLICY = Path(__file__).parent / "domain" / "generate" / "default_policy.toml"

# A drain must outlive the slowest provider call that it waits for, and the settle after it.
SETTLE_GRACE_SECONDS = 15.0


def one_word(key: str, *, name: str) -> SecretStr | None:
    """A key without the newline that it brings from a file; None where nothing is left of it.

    Raises:
        ValueError: it would break the header that it is sent in, and be quoted in an error.
    """
    word = key.strip()
    if any(not "!" <= character <= "~" for character in word):
        raise ValueError(f"{name} is not a key: one word of ASCII characters")
    return SecretStr(word) if word else None


class Settings(BaseSettings):
    """Values come from the environment only, under the field's name in capitals. Keys never print."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    # Where things are
    database_url: SecretStr | None = Field(default=None, description="postgresql://… of Parley's own data")
    parley_state_dir: Path = Field(default=Path(".parley"), description="the embedded stack's files")
    parley_simulator_url: str | None = Field(
        default=None, description="a simulator that answers for every provider without a key"
    )
    parley_ready_file: Path | None = Field(default=None, description="the worker creates it once it polls")

    # Providers
    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    openai_model: str = "gpt-4o-mini"
    openai_store: bool = Field(
        default=False, description="OpenAI keeps replies for 30 days, so that a lost one is fetched, not paid again"
    )
    openai_recovery_seconds: float = Field(
        default=5, ge=0, description="with OPENAI_STORE: how long a lost reply is looked for before it is paid anew"
    )
    anthropic_api_key: SecretStr | None = None
    anthropic_base_url: str | None = None
    anthropic_model: str = "claude-haiku-4-5"
    elevenlabs_api_key: SecretStr | None = None
    elevenlabs_base_url: str | None = None
    elevenlabs_model: str = "scribe_v1"
    elevenlabs_usd_per_hour: Decimal = Field(
        default=Decimal("0.40"), gt=0, description="speech-to-text list price; genai-prices has none"
    )
    local_base_url: str | None = Field(default=None, description="an OpenAI-compatible server: llama.cpp, vLLM, Ollama")
    local_api_key: SecretStr | None = None
    local_model: str = "llama-3.1-8b-instruct"
    local_usd_per_million_input: Decimal | None = Field(default=None, ge=0)
    local_usd_per_million_output: Decimal | None = Field(default=None, ge=0)
    provider_timeout_seconds: float = Field(default=60, gt=0)
    parley_secrets_dir: Path | None = Field(default=None, description="the files that workspaces' credentials name")

    # Calls a second for the whole fleet, enforced by the Temporal server
    openai_calls_per_second: float = Field(default=8, gt=0)
    anthropic_calls_per_second: float = Field(default=8, gt=0)
    # ElevenLabs allows 100 a minute; the server's limit is a rate and lets a few more through in a window
    elevenlabs_calls_per_second: float = Field(default=1.5, gt=0)
    local_calls_per_second: float = Field(default=50, gt=0)

    # The paid call
    lease_seconds: float = Field(default=15, gt=0, description="how long a silent owner keeps a request")
    breaker_failures: int = Field(default=3, ge=1)
    breaker_open_seconds: float = Field(default=60, gt=0)
    paid_calls_in_flight: int = Field(default=100, ge=1, description="of one provider, in one worker")
    reservation_seconds: float = Field(default=3600, gt=0, description="the longest a reservation is held")
    settle_patience_seconds: float = Field(default=600, gt=0, description="how long settle outlasts an outage")
    starting_energy: int = Field(default=100, ge=0, description="granted to a user on first sight")

    # Generate
    parley_policy_file: Path | None = Field(
        default=None, description="routes, actions, tiers and experiments; see domain/generate/default_policy.toml"
    )
    parley_cache_stale_days: int = Field(
        default=30, ge=0, description="how long an expired answer may still stand in when every provider is down"
    )

    # AutoAnalyze: terms of jobs that this environment starts, not of those that its workers run
    discovery_target_percentage: int = Field(default=15, ge=1, le=100)
    discovery_min_sessions: int = Field(default=50, ge=1)
    discovery_max_sessions: int = Field(default=150, ge=1, le=5000)
    parallel_stream_count: int = Field(default=8, ge=1, le=64)
    sessions_per_stream: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=4, description="a quota, or auto: all that fit"
    )
    parallel_processing_debug: bool = Field(default=False, description="log each round")

    # What others are told
    parley_webhook_url: SecretStr | None = Field(
        default=None, description="where events are posted; secret, since an address may carry a token"
    )
    parley_webhook_secret: SecretStr | None = Field(default=None, description="signs events: whsec_… or plain text")
    parley_metrics_address: str | None = Field(
        default=None, pattern=r"^\S+:\d{1,5}$", description="host:port where a worker shows Prometheus its metrics"
    )

    # Tests only: `point=kill,other=stop` makes the worker end or stop itself at a step of the paid call
    parley_failpoints: str = ""

    @field_validator(
        "openai_api_key",
        "anthropic_api_key",
        "elevenlabs_api_key",
        "local_api_key",
        "parley_webhook_url",
        "parley_webhook_secret",
    )
    @classmethod
    def _a_key_is_one_word(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        return one_word(key.get_secret_value(), name=(info.field_name or "").upper()) if key else None

    @model_validator(mode="after")
    def _a_sample_has_bounds_in_order(self) -> Self:
        least, most = self.discovery_min_sessions, self.discovery_max_sessions
        if least > most:
            raise ValueError(f"DISCOVERY_MIN_SESSIONS ({least}) is above DISCOVERY_MAX_SESSIONS ({most})")
        return self

    @model_validator(mode="after")
    def _a_local_server_has_a_price(self) -> Self:
        prices = (self.local_usd_per_million_input, self.local_usd_per_million_output)
        if self.local_base_url and None in prices:
            raise ValueError(
                "LOCAL_BASE_URL needs LOCAL_USD_PER_MILLION_INPUT and LOCAL_USD_PER_MILLION_OUTPUT (0 is a price)"
            )
        return self

    @field_validator("parley_webhook_url")
    @classmethod
    def _a_webhook_has_a_web_address(cls, url: SecretStr | None) -> SecretStr | None:
        try:
            parts = urlsplit(url.get_secret_value() if url else "https://none")
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            known = False
        if not known:
            raise ValueError("PARLEY_WEBHOOK_URL is not an address: http://… or https://…")
        return url

    @model_validator(mode="after")
    def _a_webhook_is_signed(self) -> Self:
        if self.parley_webhook_url is None:
            return self
        if self.parley_webhook_secret is None:
            raise ValueError("PARLEY_WEBHOOK_URL needs PARLEY_WEBHOOK_SECRET: events are signed")
        try:
            signing_key(self.parley_webhook_secret.get_secret_value())
        except ValueError as error:
            raise ValueError(f"PARLEY_WEBHOOK_SECRET {error}") from None
        return self

    def policy(self) -> Policy:
        """The policy file, or the one that comes with Parley.

        Raises:
            InvalidInput: it cannot be read, or names what is wrong in it and where.
        """
        path = self.parley_policy_file
        if path is None:
            return parse_policy(DEFAULT_POLICY.read_text(encoding="utf-8"), where=DEFAULT_POLICY.name)
        try:
            return parse_policy(path.read_text(encoding="utf-8"), where=str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"cannot be read: {error}", where=f"PARLEY_POLICY_FILE {path}") from None

    @property
    def drain_seconds(self) -> float:
        """How long a worker that was told to stop may finish what it has paid for."""
        return self.provider_timeout_seconds + SETTLE_GRACE_SECONDS
