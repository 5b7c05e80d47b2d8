"""`python -m simulator`: run it."""

import argparse
import sys
from pathlib import Path

from simulator.config import CONTEXT_WINDOW, Config
from simulator.labelling import Noise
from simulator.latency import Latency
from simulator.server import NotLoopback, serve
from simulator.wire import PROVIDERS


def main(arguments: list[str] | None = None) -> int:
    try:
        config = _config(_parser().parse_args(arguments))
        serve(config)
    except (NotLoopback, ValueError, OSError) as problem:
        sys.stderr.write(f"simulator: {problem}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simulator", description="A local server that speaks the providers' wire formats."
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=_port, default=0, help="0: any free port")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="before every reply")
    parser.add_argument("--latency-median", type=float, default=0.0, metavar="SECONDS", help="lognormal, added")
    parser.add_argument("--latency-sigma", type=float, default=0.5)
    parser.add_argument("--tokens-per-second", type=float, default=None)
    parser.add_argument("--rate-limit", type=_rate_limit, action="append", default=[], metavar="PROVIDER=PER_MINUTE")
    parser.add_argument("--context-window", type=int, default=CONTEXT_WINDOW, metavar="TOKENS")
    usual = Noise()
    parser.add_argument("--label-reuse", type=float, default=usual.reuse, metavar="SHARE", help="of known labels")
    parser.add_argument("--label-mistakes", type=float, default=usual.mistakes, metavar="SHARE", help="of sessions")
    parser.add_argument("--label-unmerged", type=float, default=usual.unmerged, metavar="SHARE", help="of twin labels")
    parser.add_argument("--transcripts", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--log", type=Path, metavar="FILE", help="JSON lines: what was received and billed")
    parser.add_argument("--port-file", type=Path, metavar="FILE", help="written once it answers")
    return parser


def _config(options: argparse.Namespace) -> Config:
    return Config(
        host=options.host,
        port=options.port,
        seed=options.seed,
        latency=Latency(options.latency, options.latency_median, options.latency_sigma, options.tokens_per_second),
        rate_limits=dict(options.rate_limit),
        context_window=options.context_window,
        noise=Noise(options.label_reuse, options.label_mistakes, options.label_unmerged),
        transcripts=tuple(options.transcripts),
        log=options.log,
        port_file=options.port_file,
    )


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0 to 65535")
    return int(text)


def _rate_limit(text: str) -> tuple[str, int]:
    provider, _, number = text.partition("=")
    if provider not in PROVIDERS or not number.isdigit() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected PROVIDER=PER_MINUTE with one of {', '.join(PROVIDERS)}")
    return provider, int(number)


if __name__ == "__main__":
    sys.exit(main())
