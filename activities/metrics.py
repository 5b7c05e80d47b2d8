"""The metrics that Parley adds to those of the Temporal SDK.

They count since this process started; the ledger is the record of the money spent. After `DISTINCT_NAMES` different
models or actions, each new name is counted as `other`.
"""

import asyncio
import logging
import socket
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal

from temporalio.common import MetricMeter
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from parley.domain.errors import InvalidInput, Unreachable
from parley.domain.requests import Provider, Usage
from parley.storage import breaker
from parley.storage.database import Database
from parley.storage.driver import fetch

ATTEMPT_SECONDS, GATEWAY_SECONDS = "parley_attempt_seconds", "parley_gateway_request_seconds"
BUCKETS = {
    ATTEMPT_SECONDS: (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0),
    GATEWAY_SECONDS: (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
}
DISTINCT_NAMES = 100
WATCH_SECONDS = 10.0

log = logging.getLogger("parley.metrics")


class Metrics:
    """The counters of one worker on one meter. Without a meter they count nothing."""

    def __init__(self, meter: MetricMeter = MetricMeter.noop) -> None:
        self._attempts = meter.create_counter("parley_attempts_total", "Attempts, by outcome")
        self._cost = meter.create_counter("parley_cost_micro_usd_total", "Millionths of a US dollar spent at providers")
        self._tokens = meter.create_counter("parley_tokens_total", "Tokens that providers reported")
        self._above_bound = meter.create_counter(
            "parley_cost_above_bound_micro_usd_total", "Millionths of a US dollar by which costs exceeded upper bounds"
        )
        self._seconds = meter.create_histogram_float(ATTEMPT_SECONDS, "Seconds from a request to its reply or failure")
        self._generations = meter.create_counter("parley_generations_total", "Generations, by outcome")
        self._breaker = meter.create_gauge("parley_breaker_open", "1 while the provider's breaker is open")
        self._exported = meter is not MetricMeter.noop
        self._names: defaultdict[str, set[str]] = defaultdict(set)
        # Of a millionth of a dollar, by counter and labels: a counter has whole numbers, and most attempts cost little.
        self._fractions: defaultdict[tuple[str, ...], Decimal] = defaultdict(Decimal)

    def attempt_ended(  # noqa: PLR0913 - every label and amount of one attempt
        self,
        provider: Provider,
        model: str,
        action: str,
        outcome: str,
        cost: Decimal,
        usage: Usage,
        seconds: float | None,
        *,
        confirmed: bool = True,
    ) -> None:
        """Count an attempt for a paid request.

        Args:
            outcome: `settled`, `duplicate` or `failed`, as in the ledger, or `recovered`: the provider had stored the
                reply of an attempt that was counted before. Such an attempt is counted twice, because a counter cannot
                decrease.
            cost: in USD.
            seconds: the duration of the provider request; None if no request was sent.
            confirmed: `cost` is by the provider's own count, not the upper bound.
        """
        labels = {
            "provider": provider.value,
            "model": self._bounded("model", model),
            "action": self._bounded("action", action),
        }
        self._attempts.add(1, {**labels, "outcome": outcome})
        spent = {**labels, "confirmed": str(confirmed).lower()}
        self._cost.add(self._micro_usd(cost, "spent", *spent.values()), spent)
        self._tokens.add(usage.input_tokens, {"direction": "input"})
        self._tokens.add(usage.output_tokens, {"direction": "output"})
        if seconds is not None:
            self._seconds.record(seconds, labels)

    def cost_above_bound(self, provider: Provider, model: str, excess: Decimal) -> None:
        """Count the dollars by which an attempt cost more than its upper bound."""
        labels = {"provider": provider.value, "model": self._bounded("model", model)}
        self._above_bound.add(self._micro_usd(excess, "above", *labels.values()), labels)

    def generation_ended(self, outcome: str, cached: str) -> None:
        """Count a generation. `cached`: a value of `domain.generate.contract.Cached`, empty for a paid answer."""
        self._generations.add(1, {"outcome": outcome, "cached": cached or "no"})

    @asynccontextmanager
    async def watching_breakers(self, database: Database) -> AsyncGenerator[None]:
        """Export the state of each provider's breaker, which the fleet shares, during the block."""
        if not self._exported:
            yield
            return
        watch = asyncio.create_task(self._watch_breakers(database))
        try:
            yield
        finally:
            watch.cancel()

    async def _watch_breakers(self, database: Database) -> None:
        while True:
            try:
                async with database.transaction() as tx:
                    waits = await fetch(tx, breaker.waits())
            except Unreachable as error:
                log.warning("cannot read the breakers: %s", error)
            else:
                for provider in Provider:
                    self._breaker.set(int(waits.of(provider, shares_key=True) > 0), {"provider": provider.value})
            await asyncio.sleep(WATCH_SECONDS)

    def _micro_usd(self, usd: Decimal, *counter: str) -> int:
        """Whole millionths of a dollar to add to a counter. What is left is added with the next amount."""
        amount = usd * 1_000_000 + self._fractions[counter]
        self._fractions[counter] = amount % 1
        return int(amount)

    def _bounded(self, label: str, name: str) -> str:
        """The name as a label's value; `other` once the label has too many values."""
        known = self._names[label]
        if name not in known and len(known) >= DISTINCT_NAMES:
            return "other"
        known.add(name)
        return name


def serve_metrics(address: str | None) -> tuple[Metrics, Runtime | None]:
    """Export metrics at http://ADDRESS/metrics. Call it once per process. If `address` is None, nothing is counted.

    Returns the metrics, and the runtime for Temporal's client, so that the SDK's metrics are exported as well.

    Raises:
        InvalidInput: the process cannot listen on the address.
    """
    if address is None:
        return Metrics(), None
    host, _, port = address.rpartition(":")
    try:
        # The exporter takes addresses, not names such as `localhost`.
        [(*_, (number, *_)), *_] = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidInput(f"cannot listen on {address}: {error.strerror}", where="PARLEY_METRICS_ADDRESS") from error
    at = f"[{number}]:{port}" if ":" in str(number) else f"{number}:{port}"
    exporter = PrometheusConfig(bind_address=at, durations_as_seconds=True, histogram_bucket_overrides=BUCKETS)
    try:
        runtime = Runtime(telemetry=TelemetryConfig(metrics=exporter))
    except (RuntimeError, ValueError) as error:
        raise InvalidInput(f"cannot listen on {address}: {error}", where="PARLEY_METRICS_ADDRESS") from error
    return Metrics(runtime.metric_meter), runtime
