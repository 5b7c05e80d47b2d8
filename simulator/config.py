"""The settings with which a simulator starts."""

from dataclasses import asdict, dataclass, field
from math import exp
from pathlib import Path
from statistics import NormalDist
from typing import Any

from simulator.labelling import Noise
from simulator.seeded import fraction

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
CONTEXT_WINDOW = 128_000


@dataclass(frozen=True)
class Latency:
    """How long a reply takes.

    The wait before the first byte is `seconds` plus, if `median` is not 0, a lognormal time around `median` seconds
    with shape `sigma`. The reply is then spread over its tokens at `tokens_per_second`; None sends it at once.
    """

    seconds: float = 0.0
    median: float = 0.0
    sigma: float = 0.0
    tokens_per_second: float | None = None

    def __post_init__(self) -> None:
        if min(self.seconds, self.median, self.sigma) < 0:
            raise ValueError("latency: seconds, median and sigma must not be negative")
        if self.tokens_per_second is not None and self.tokens_per_second <= 0:
            raise ValueError("latency: tokens_per_second must be positive")

    def before_first_byte(self, seed: int, number: int) -> float:
        """Return the wait of the request with this number, in seconds. The same seed gives the same wait."""
        if not self.median:
            return self.seconds
        # Keeps the value away from 0 and 1, where the inverse of the distribution is infinite.
        at = fraction(seed, "latency", number) * (1 - 2e-9) + 1e-9
        return self.seconds + self.median * exp(self.sigma * NormalDist().inv_cdf(at))

    def generation(self, output_tokens: int) -> float:
        """Return the seconds over which a reply of this many tokens is spread."""
        return output_tokens / self.tokens_per_second if self.tokens_per_second else 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Config:
    """The settings of one simulator.

    Attributes:
        host: a loopback address.
        port: 0 takes any free port.
        seed: chooses wordings, label noise and latencies.
        rate_limits: requests per minute, by provider. A provider without an entry has no limit.
        batch_seconds: after which a batch is answered.
        context_window: the longest prompt, in the simulator's tokens.
        noise: how unreliable the labels are.
        transcripts: folders with recordings and their transcripts, in addition to `samples/`.
        log: a JSON-lines file with every request. Without it, records are in memory only.
        port_file: a file that receives the port number as soon as the server accepts requests.
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 7
    latency: Latency = field(default_factory=Latency)
    rate_limits: dict[str, int] = field(default_factory=dict)
    batch_seconds: float = 0.0
    context_window: int = CONTEXT_WINDOW
    noise: Noise = field(default_factory=Noise)
    transcripts: tuple[Path, ...] = ()
    log: Path | None = None
    port_file: Path | None = None

    @property
    def transcript_directories(self) -> tuple[Path, ...]:
        return (SAMPLES, *self.transcripts)
