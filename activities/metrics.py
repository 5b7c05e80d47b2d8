"""Parley's own metrics, beside those of Temporal's SDK. Where nobody scrapes them, each function does nothing.

They are this process's, since its start: the ledger is what counts money. No label takes values without bound: what
callers name freely is told apart up to a number, and is `other` beyond it.
"""

import asyncio
import logging
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

CALL_SECONDS = "parley_call_seconds"
BUCKETS = {CALL_SECONDS: (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0)}
DISTINCT_NAMES = 100
WATCH_SECONDS = 10.0

log = logging.getLogger("parley.metrics")


class Instruments:
    """What is counted, on one meter."""

    def __init__(self, meter: MetricMeter) -> None:
        self.calls = meter.create_counter("parley_calls_total", "Attempts at paid calls, by how they ended")
        self.cost = meter.create_counter("parley_cost_micro_usd_total", "Millionths of a dollar spent at providers")
        self.tokens = meter.create_counter("parley_tokens_total", "Tokens that providers counted")
        self.seconds = meter.create_histogram_float(CALL_SECONDS, "Seconds from a call to its reply or failure")
        self.generations = meter.create_counter("parley_generations_total", "Answers of Generate, by how they ended")
        self.breaker = meter.create_gauge("parley_breaker_open", "1 while the fleet holds calls to a provider back")
        self.shown = meter is not MetricMeter.noop
        self._names: defaultdict[str, set[str]] = defaultdict(set)

    def bounded(self, label: str, name: str) -> str:
        """The name as a label's value, `other` once the label has too many."""
        known = self._names[label]
        if name not in known and len(known) >= DISTINCT_NAMES:
            return "other"
        known.add(name)
        return name


_now = Instruments(MetricMeter.noop)


def serve(address: str | None) -> Runtime | None:
    """Show the metrics at http://ADDRESS/metrics from now on: once, at the start of a process.

    Returns the runtime that Temporal's client must have, so that the SDK's metrics are there as well.

    Raises:
        InvalidInput: nothing can listen at the address.
    """
    global _now  # noqa: PLW0603 - as with logging, whoever counts need not be handed the place
    if address is None:
        return None
    shown = PrometheusConfig(bind_address=address, durations_as_seconds=True, histogram_bucket_overrides=BUCKETS)
    try:
        runtime = Runtime(telemetry=TelemetryConfig(metrics=shown))
    except (RuntimeError, ValueError) as error:
        raise InvalidInput(f"cannot listen at {address}: {error}", where="PARLEY_METRICS_ADDRESS") from error
    _now = Instruments(runtime.metric_meter)
    return runtime


def attempt_ended(  # noqa: PLR0913 - it is told everything at once
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
    """An attempt at a paid call is over.

    Args:
        outcome: settled, duplicate or failed, as the ledger has it; recovered, where the reply to one that had failed
            was found at the provider: it is counted a second time, since a counter takes nothing back.
        seconds: that the call took, if this was one.
        confirmed: `cost` is what the provider counted, not the most that it can be.
    """
    call = {
        "provider": provider.value,
        "model": _now.bounded("model", model),
        "action": _now.bounded("action", action),
    }
    _now.calls.add(1, {**call, "outcome": outcome})
    _now.cost.add(int(cost * 1_000_000), {**call, "confirmed": str(confirmed).lower()})
    _now.tokens.add(usage.input_tokens, {"direction": "input"})
    _now.tokens.add(usage.output_tokens, {"direction": "output"})
    if seconds is not None:
        _now.seconds.record(seconds, call)


def generation(outcome: str, cached: str) -> None:
    """A `Generate` is over. `cached`: as `domain.generate.contract.Cached` names it, empty if it was not."""
    _now.generations.add(1, {"outcome": outcome, "cached": cached or "no"})


@asynccontextmanager
async def watching(database: Database) -> AsyncGenerator[None]:
    """Show each provider's breaker, which is the whole fleet's, during the block."""
    if not _now.shown:
        yield
        return
    watch = asyncio.create_task(_watch_breakers(database))
    try:
        yield
    finally:
        watch.cancel()


async def _watch_breakers(database: Database) -> None:
    while True:
        try:
            async with database.transaction() as tx:
                waits = await breaker.waits(tx)
        except Unreachable as error:
            log.warning("breakers not read: %s", error)
        else:
            for provider in Provider:
                _now.breaker.set(int(waits.get(provider, 0) > 0), {"provider": provider.value})
        await asyncio.sleep(WATCH_SECONDS)
