"""What one simulator is started with."""

from dataclasses import dataclass, field
from pathlib import Path

from simulator.labelling import Noise
from simulator.latency import Latency

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
CONTEXT_WINDOW = 128_000


@dataclass(frozen=True)
class Config:
    """`rate_limits`: requests per minute by provider. `transcripts`: directories besides the samples."""

    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 7
    latency: Latency = field(default_factory=Latency)
    rate_limits: dict[str, int] = field(default_factory=dict)
    context_window: int = CONTEXT_WINDOW
    noise: Noise = field(default_factory=Noise)
    transcripts: tuple[Path, ...] = ()
    log: Path | None = None
    port_file: Path | None = None

    @property
    def transcript_directories(self) -> tuple[Path, ...]:
        return (SAMPLES, *self.transcripts)
