"""Every environment variable that Parley reads, typed, in one place."""

import os
import re
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AliasGenerator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from parley.domain.auto_analyze.contract import DEFAULT_MAX_STALENESS
from parley.domain.errors import InvalidInput
from parley.domain.events import signing_key
from parley.domain.generate.policy import Policy, parse_policy
from parley.domain.requests import Provider

DEFAULT_POLICY = Path(__file__).parent / "domain" / "generate" / "default_policy.toml"

# A drain must outlive the slowest provider request that it waits for, and the settlement after it.
SETTLE_GRACE_SECONDS = 15.0

PREFIX = "PARLEY_"
# Vendors' variables, those of AutoAnalyze and the database's have the names that others use too.
UNPREFIXED = (
    *("openai_", "anthropic_", "elevenlabs_", "local_", "twilio_"),
    *("discovery_", "parallel_", "sessions_per_stream", "max_staleness", "database_url"),
)
# Read by the command line, by docker-compose.yml and by the tests.
OTHER_VARIABLES = {
    f"{PREFIX}WORKSPACE": "the workspace of the command line; default: default",
    f"{PREFIX}DB_PASSWORD": "docker-compose.yml: the password of Parley's PostgreSQL",
    f"{PREFIX}DB_PORT": "docker-compose.yml: the port of Parley's PostgreSQL on this machine; default: 5432",
    f"{PREFIX}IMAGE": "docker-compose.yml: the image of Parley's services",
    f"{PREFIX}STOP_GRACE_PERIOD": "docker-compose.yml: how long a worker may take to stop; default: 90s",
    f"{PREFIX}RECORD": "tests: record the histories of tests/replay again",
}
SIMILAR = 0.85


def variable(field: str) -> str:
    """The environment variable of a field: its name in capitals, after `PARLEY_` unless the name is not Parley's."""
    return field.upper() if field.startswith(UNPREFIXED) else f"{PREFIX}{field.upper()}"


def default_state_dir() -> Path:
    """`.parley` in the working directory or above it, if there is one; else the user's, for every other directory."""
    here = Path.cwd()
    local = next((path for path in (here / ".parley", *(up / ".parley" for up in here.parents)) if _is_own(path)), None)
    if local is not None:
        return local
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:  # an account without a home
        return here / ".parley"
    return home / "parley"


def _is_own(path: Path) -> bool:
    """Whether it is a directory of this account. Another one's would decide which servers and processes are used."""
    try:
        return path.is_dir() and path.stat().st_uid == os.geteuid()
    except OSError:  # a directory above cannot be searched
        return False


def one_word(key: str, *, name: str) -> SecretStr | None:
    """A key without the newline that a file adds to it; None if it is empty.

    Raises:
        ValueError: the key would break the header that it is sent in, and an error would quote it.
    """
    word = key.strip()
    if any(not "!" <= character <= "~" for character in word):
        raise ValueError(f"{name} must be one word of ASCII characters, without spaces")
    return SecretStr(word) if word else None


class Settings(BaseSettings):
    """Values come from the environment, or from arguments named like the fields. Keys never print.

    A variable that starts with `PARLEY_` and is nearly one of these is refused: it is a typing error.
    """

    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=variable),
        validate_by_name=True,
        env_prefix=PREFIX,  # of a variable that is named like the field; without it LEASE_SECONDS would be read too
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    # Where things are
    database_url: SecretStr | None = Field(default=None, description="postgresql://…, the database of Parley's data")
    codec_keys: SecretStr | None = Field(
        default=None,
        description="id:key,…, the keys that encrypt Temporal's payloads, the first for new ones; off: clear text",
    )
    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="directory of the embedded stack's files; default: .parley here or above, or else the user's",
    )
    simulator_url: str | None = Field(
        default=None, description="URL of the simulator, which answers for every provider without a key"
    )
    ready_file: Path | None = Field(default=None, description="file that the worker creates once it polls")

    # Providers
    openai_api_key: SecretStr | None = Field(default=None, description="without it only the simulator answers for it")
    openai_base_url: str | None = Field(default=None, description="address; default: the vendor's")
    openai_model: str = Field(default="gpt-4o-mini", description="model of a request that names none")
    openai_store: bool = Field(
        default=False,
        description="have OpenAI store replies for 30 days, so that a lost one is fetched and not paid again",
    )
    openai_recovery_seconds: float = Field(
        default=5, ge=0, description="with OPENAI_STORE: how long a lost reply is looked for before a new attempt"
    )
    anthropic_api_key: SecretStr | None = Field(
        default=None, description="without it only the simulator answers for it"
    )
    anthropic_base_url: str | None = Field(default=None, description="address; default: the vendor's")
    anthropic_model: str = Field(default="claude-haiku-4-5", description="model of a request that names none")
    elevenlabs_api_key: SecretStr | None = Field(
        default=None, description="without it only the simulator answers for it"
    )
    elevenlabs_base_url: str | None = Field(default=None, description="address; default: the vendor's")
    elevenlabs_model: str = Field(default="scribe_v1", description="model of a request that names none")
    elevenlabs_usd_per_hour: Decimal = Field(
        default=Decimal("0.40"), gt=0, description="list price of speech-to-text; genai-prices has none"
    )
    elevenlabs_speech_model: str = Field(default="eleven_multilingual_v2", description="model of text-to-speech")
    elevenlabs_voice: str = Field(default="21m00Tcm4TlvDq8ikWAM", description="voice of text-to-speech, by its id")
    elevenlabs_usd_per_thousand_characters: Decimal = Field(
        default=Decimal("0.10"), gt=0, description="list price of text-to-speech; genai-prices has none"
    )
    local_base_url: str | None = Field(default=None, description="an OpenAI-compatible server: llama.cpp, vLLM, Ollama")
    local_api_key: SecretStr | None = Field(default=None, description="key of that server, if it needs one")
    local_model: str = Field(default="llama-3.1-8b-instruct", description="model of a request that names none")
    local_usd_per_million_input: Decimal | None = Field(
        default=None, ge=0, description="price of a million input tokens; 0 if it costs nothing"
    )
    local_usd_per_million_output: Decimal | None = Field(
        default=None, ge=0, description="price of a million output tokens; 0 if it costs nothing"
    )
    whisper_model: str = Field(
        default="tiny.en",
        description="speech-to-text on this machine: tiny.en, which the extra local-speech ships and which knows "
        "English only, or the directory of another Whisper model for CTranslate2",
    )
    hearing: Literal["auto", "elevenlabs", "whisper"] = Field(
        default="auto",
        description="what hears recordings; auto: ElevenLabs if there is a key, else this machine if the extra "
        "local-speech is installed, else the simulator",
    )
    audio_hosts: str = Field(
        default="",
        description="host:port,… of your own servers from which recordings are fetched by http and at private "
        "addresses; default: recordings are fetched by https and from public addresses only",
    )
    provider_timeout_seconds: float = Field(default=60, gt=0, description="the longest request to a provider")
    secrets_dir: Path | None = Field(default=None, description="directory of the key files that workspaces name")

    # Requests per second of the whole fleet; the Temporal server enforces them
    openai_requests_per_second: float = Field(default=8, gt=0, description="limit of the whole fleet")
    anthropic_requests_per_second: float = Field(default=8, gt=0, description="limit of the whole fleet")
    # ElevenLabs allows 100 requests per minute; Temporal's limit lets a few more through in a window
    elevenlabs_requests_per_second: float = Field(default=1.5, gt=0, description="limit of the whole fleet")
    local_requests_per_second: float = Field(default=50, gt=0, description="limit of the whole fleet")
    whisper_requests_per_second: float = Field(default=50, gt=0, description="limit of the whole fleet")

    # The paid call
    lease_seconds: float = Field(
        default=15, gt=0, description="a claim whose owner does not renew it ends after this time"
    )
    breaker_failures: int = Field(default=3, ge=1, description="consecutive failures that open the breaker")
    breaker_open_seconds: float = Field(default=60, gt=0, description="how long it stays open before a probe")
    paid_calls_in_flight: int = Field(
        default=100, ge=1, description="concurrent paid calls of one provider in one worker"
    )
    reservation_seconds: float = Field(default=3600, gt=0, description="how long a reservation is held at most")
    settle_timeout_seconds: float = Field(
        default=600, gt=0, description="how long settlement is retried while PostgreSQL is down"
    )
    on_ledger_down: Literal["refuse", "spool"] = Field(
        default="refuse",
        description="phone calls while PostgreSQL is down: refuse: no paid request is made; spool: each is "
        "written to PARLEY_SPOOL_DIR, and booked when it is back",
    )
    spool_dir: Path | None = Field(
        default=None,
        description="directory of the spool, on a disk that survives; default: in the state directory",
    )
    spool_usd: Decimal = Field(
        default=Decimal(1), gt=0, description="the most that the requests of a spool may cost together, in USD"
    )
    starting_energy: int = Field(default=100, ge=0, description="granted to a user with the first request")
    collect_seconds: float = Field(
        default=3.0,
        ge=0,
        le=60,
        description="how long short sessions of free users wait for others, to share a request; 0: not at all",
    )

    # Generate
    policy_file: Path | None = Field(
        default=None, description="routes, actions, tiers and experiments; see domain/generate/default_policy.toml"
    )
    cache_stale_days: int = Field(
        default=30, ge=0, description="how long an expired answer may be reused while every provider is down"
    )

    # How long rows are kept
    job_days: int = Field(
        default=400,
        ge=45,
        description="how long the rows of a job are kept: its idempotency key, its result, and what it cost in detail",
    )
    conversation_days: int = Field(
        default=1095, ge=1, description="how long a conversation is kept after its last turn, with all its turns"
    )
    event_days: int = Field(default=7, ge=1, description="how long events are kept that wait for no delivery")

    # AutoAnalyze: they apply to the jobs that this process starts, not to those that it runs
    discovery_target_percentage: int = Field(default=15, ge=1, le=100, description="discovery sample, in percent")
    discovery_min_sessions: int = Field(default=50, ge=1, description="the smallest discovery sample")
    discovery_max_sessions: int = Field(default=150, ge=1, le=5000, description="the largest discovery sample")
    parallel_stream_count: int = Field(default=8, ge=1, le=64, description="parallel streams")
    sessions_per_stream: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="sessions per stream and round, or auto: all that fit"
    )
    max_staleness: Annotated[int, Field(ge=0, le=100)] | Literal["continuous"] = Field(
        default=DEFAULT_MAX_STALENESS,
        description="rounds by which a stream's labels may be old; 0 waits after each round; continuous has no bound",
    )
    parallel_processing_debug: bool = Field(default=False, description="log each round")

    # Memory of conversations
    memory_vectors: Literal["auto", "local", "off"] = Field(
        default="auto",
        description="how memories are compared with a turn: local: by vectors of the extra local-embeddings; off: by "
        "words; auto: by vectors if the extra is installed; the knowledge base and AutoAnalyze do the same",
    )

    # Speech
    speech_clips_dir: Path | None = Field(
        default=None, description="directory of recorded sentences (NAME.txt with NAME.wav), for when no voice answers"
    )

    # Events and metrics
    webhook_url: SecretStr | None = Field(
        default=None, description="URL that events are posted to; secret, because it may contain a token"
    )
    webhook_secret: SecretStr | None = Field(default=None, description="signs events: whsec_… or plain text")
    metrics_address: str | None = Field(
        default=None, pattern=r"^\S+:\d{1,5}$", description="host:port of a worker's Prometheus endpoint"
    )

    # The gateway
    gateway_host: str = Field(default="127.0.0.1", description="address that the gateway listens on")
    gateway_port: int = Field(default=8700, ge=0, le=65535, description="port that it listens on; 0: any free one")
    gateway_trusted_hosts: str = Field(
        default="localhost,127.0.0.1,[::1]",
        description="host names that requests may name, separated by commas; * for any, `*.example.com` for all below",
    )
    gateway_trusted_proxies: str = Field(
        default="", description="addresses whose X-Forwarded-For and X-Forwarded-Proto count, separated by commas"
    )
    gateway_cors_origins: str = Field(
        default="", description="origins whose pages may use the gateway, separated by commas; empty: none"
    )
    gateway_body_bytes: int = Field(default=20_000_000, ge=1, description="the largest body of a request")
    gateway_upload_bytes: int = Field(
        default=2_000_000_000, ge=1, description="the largest body of a request that uploads a file"
    )
    gateway_read_seconds: float = Field(
        default=30,
        gt=0,
        description="the longest pause within a request, and before the first one of a connection",
    )
    gateway_temporal_ui_url: str | None = Field(
        default=None, pattern=r"^https?://", description="address of the Temporal UI, which the console links to"
    )

    # Phone calls
    twilio_account_sid: str | None = Field(default=None, description="the account that dials: AC…")
    twilio_auth_token: SecretStr | None = Field(
        default=None, description="signs Twilio's requests; without it no phone call is taken"
    )
    twilio_shared_key: SecretStr | None = Field(
        default=None,
        description="secret of the shared key of a webhooks rule, which signs by HMAC-SHA256; default: the auth token",
    )
    twilio_base_url: str = Field(default="https://api.twilio.com", description="address of Twilio's REST API")
    phone_public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+$",
        description="the gateway's public address, https://… without a path, as Twilio requests it; its host is "
        "trusted; default: as the request says, and behind a trusted proxy as the proxy says",
    )

    # Streams: where a gateway, or a client that streams, receives tokens from workers
    stream_host: str = Field(
        default="127.0.0.1", description="address that the receiver of streams listens on, for workers"
    )
    stream_port: int = Field(default=0, ge=0, le=65535, description="its port; 0: any free one")
    stream_address: str | None = Field(
        default=None,
        pattern=r"^wss?://\S+$",
        description="what workers connect to, for example ws://gateway-1:9000; default: the host and the port, for "
        "a wildcard with this machine's own address",
    )

    failpoints: str = Field(
        default="", description="tests: `point=kill,other=stop` makes a worker kill or stop itself at a step"
    )

    @model_validator(mode="before")
    @classmethod
    def _check_variable_names(cls, values: Any) -> Any:
        known = {*map(variable, cls.model_fields), *OTHER_VARIABLES}
        for name in sorted(os.environ):
            is_ours = name.startswith(PREFIX) and name not in known and not _is_service_link(os.environ[name])
            if is_ours and (meant := _nearest(name, known)):
                raise ValueError(f"{name} is not a setting: did you mean {meant}?")
        # A value from a file ends with a newline, and one of blanks is empty: not set.
        stripped = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
        return {
            name: value
            for name, value in stripped.items()
            if value != "" and not (name.lower().endswith("_port") and _is_service_link(value))
        }

    @field_validator(
        "openai_api_key",
        "anthropic_api_key",
        "elevenlabs_api_key",
        "local_api_key",
        "twilio_auth_token",
        "twilio_shared_key",
        "webhook_url",
        "webhook_secret",
    )
    @classmethod
    def _check_key(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        return one_word(key.get_secret_value(), name=variable(info.field_name or "")) if key else None

    @model_validator(mode="after")
    def _check_sample_bounds(self) -> Self:
        least, most = self.discovery_min_sessions, self.discovery_max_sessions
        if least > most:
            raise ValueError(f"DISCOVERY_MIN_SESSIONS ({least}) must not be above DISCOVERY_MAX_SESSIONS ({most})")
        return self

    @model_validator(mode="after")
    def _check_local_prices(self) -> Self:
        prices = (self.local_usd_per_million_input, self.local_usd_per_million_output)
        if self.local_base_url and None in prices:
            raise ValueError(
                "LOCAL_BASE_URL needs LOCAL_USD_PER_MILLION_INPUT and LOCAL_USD_PER_MILLION_OUTPUT, for example 0"
            )
        return self

    @field_validator("webhook_url")
    @classmethod
    def _check_webhook_url(cls, url: SecretStr | None) -> SecretStr | None:
        try:
            parts = urlsplit(url.get_secret_value() if url else "https://none")
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            known = False
        if not known:
            raise ValueError(
                "PARLEY_WEBHOOK_URL must be a URL that starts with http:// or https://, for example https://example.com/parley"
            )
        return url

    @model_validator(mode="after")
    def _check_webhook_secret(self) -> Self:
        if self.webhook_url is None:
            return self
        if self.webhook_secret is None:
            raise ValueError("PARLEY_WEBHOOK_URL needs PARLEY_WEBHOOK_SECRET: events are signed")
        try:
            signing_key(self.webhook_secret.get_secret_value())
        except ValueError as error:
            raise ValueError(f"PARLEY_WEBHOOK_SECRET {error}") from None
        return self

    def trusted_audio_hosts(self) -> frozenset[str]:
        """The servers of `audio_hosts`, each as `host:port`."""
        return frozenset(host.strip() for host in self.audio_hosts.split(",") if host.strip())

    def policy(self) -> Policy:
        """The policy file, or the default policy of the package.

        Raises:
            InvalidInput: the file cannot be read or is not valid; it names the place.
        """
        path = self.policy_file
        if path is None:
            return parse_policy(DEFAULT_POLICY.read_text(encoding="utf-8"), where=DEFAULT_POLICY.name)
        try:
            return parse_policy(path.read_text(encoding="utf-8"), where=str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"cannot be read: {error}", where=f"PARLEY_POLICY_FILE {path}") from None

    def model_of(self, provider: Provider) -> str:
        """The model of a request to the provider that names none: `PARLEY_OPENAI_MODEL` and the like."""
        return getattr(self, f"{provider.value}_model")

    def requests_per_second(self, provider: Provider) -> float:
        """The limit of the whole fleet for the provider: `PARLEY_OPENAI_REQUESTS_PER_SECOND` and the like."""
        return getattr(self, f"{provider.value}_requests_per_second")

    @property
    def spool(self) -> Path | None:
        """Where requests are spooled while PostgreSQL is down; None: they are refused."""
        return (self.spool_dir or self.state_dir / "spool") if self.on_ledger_down == "spool" else None

    @property
    def drain_seconds(self) -> float:
        """How long a worker that received SIGTERM may take to finish its paid calls."""
        return self.provider_timeout_seconds + SETTLE_GRACE_SECONDS


def problem(error: ValidationError) -> str:
    """The first problem of an invalid environment, in one line that names the variable."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    name = ".".join(map(str, first["loc"]))
    return message if not name or message.startswith(name) else f"{name}: {message}"


def _is_service_link(value: object) -> bool:
    """Whether Kubernetes made the variable: `PARLEY_GATEWAY_PORT` has the address of a service `parley-gateway`."""
    return isinstance(value, str) and re.match(r"(tcp|udp|sctp)://", value) is not None


def _nearest(name: str, known: set[str]) -> str | None:
    """The variable that a misspelled one probably means; None if it is like none."""
    bare = name.removeprefix(PREFIX)
    if bare in known:
        return bare
    # A workspace's own key may have any such name.
    similar = [] if bare.endswith("_API_KEY") else get_close_matches(name, known, n=1, cutoff=SIMILAR)
    return next(iter(similar), None)
