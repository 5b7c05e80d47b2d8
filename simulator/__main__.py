"""Runs a simulator: `python -m simulator`."""

import argparse
import sys
from pathlib import Path

from simulator.config import CONTEXT_WINDOW, Config, Latency
from simulator.labelling import Noise
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
        prog="simulator",
        description="A local server that speaks the providers' wire formats. It computes its answers by rules.",
    )
    noise, add = Noise(), parser.add_argument
    add("--host", default="127.0.0.1", help="loopback address (default %(default)s)")
    add("--port", type=_port, default=0, help="port; 0 takes any free port (default %(default)s)")
    add("--seed", type=int, default=7, help="seed of wordings, label noise and latencies (default %(default)s)")
    add("--latency", type=float, default=0.0, metavar="SECONDS", help="fixed wait before every reply")
    add("--latency-median", type=float, default=0.0, metavar="SECONDS", help="median of an additional lognormal wait")
    add("--latency-sigma", type=float, default=0.5, help="shape of the lognormal wait (default %(default)s)")
    add("--tokens-per-second", type=float, default=None, help="pace of a reply; without it, a reply is sent at once")
    add(
        "--rate-limit",
        type=_rate_limit,
        action="append",
        default=[],
        metavar="PROVIDER=PER_MINUTE",
        help="requests per minute of one provider; repeatable",
    )
    add("--batch-seconds", type=float, default=0.0, help="time until a batch is answered (default %(default)s)")
    add(
        "--context-window",
        type=int,
        default=CONTEXT_WINDOW,
        metavar="TOKENS",
        help="longest prompt (default %(default)s)",
    )
    add(
        "--label-reuse",
        type=float,
        default=noise.reuse,
        metavar="SHARE",
        help="known labels that are reused (default %(default)s)",
    )
    add(
        "--label-mistakes",
        type=float,
        default=noise.mistakes,
        metavar="SHARE",
        help="sessions labelled wrongly (default %(default)s)",
    )
    add(
        "--label-unmerged",
        type=float,
        default=noise.unmerged,
        metavar="SHARE",
        help="duplicate labels not grouped (default %(default)s)",
    )
    add(
        "--transcripts",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of recordings with transcripts, in addition to samples/; repeatable",
    )
    add("--log", type=Path, metavar="FILE", help="JSON-lines file for received and billed requests")
    add("--port-file", type=Path, metavar="FILE", help="file that receives the port once the server is ready")
    return parser


def _config(options: argparse.Namespace) -> Config:
    return Config(
        host=options.host,
        port=options.port,
        seed=options.seed,
        latency=Latency(options.latency, options.latency_median, options.latency_sigma, options.tokens_per_second),
        rate_limits=dict(options.rate_limit),
        batch_seconds=options.batch_seconds,
        context_window=options.context_window,
        noise=Noise(options.label_reuse, options.label_mistakes, options.label_unmerged),
        transcripts=tuple(options.transcripts),
        log=options.log,
        port_file=options.port_file,
    )


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number from 0 to 65535")
    return int(text)


def _rate_limit(text: str) -> tuple[str, int]:
    provider, _, number = text.partition("=")
    if provider not in PROVIDERS or not number.isdigit() or int(number) < 1:
        names = ", ".join(PROVIDERS)
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be PROVIDER=PER_MINUTE with one of {names}, for example openai=60"
        )
    return provider, int(number)


if __name__ == "__main__":
    sys.exit(main())
