"""The gateway's own metrics, on the meter of Temporal's runtime, with those of the SDK and of paid calls.

No label has a name of a workspace, a user or a key.
"""

import socket

import httpx
from temporalio.common import MetricMeter
from temporalio.runtime import Runtime

from activities.metrics import GATEWAY_SECONDS, Metrics, serve_metrics
from parley.domain.errors import Unreachable

EXPORTER_SECONDS = 5.0


class GatewayMetrics:
    """The counters of one gateway process. Without an exporter they count nothing.

    Attributes:
        paid: the counters of paid calls that this process makes itself.
        runtime: the runtime for Temporal's client; None for the SDK's own.
    """

    def __init__(self, address: str | None = None, paid: Metrics | None = None, runtime: Runtime | None = None) -> None:
        meter = runtime.metric_meter if runtime else MetricMeter.noop
        self._address, self.paid, self.runtime = address, paid or Metrics(), runtime
        self._requests = meter.create_counter("parley_gateway_requests_total", "Requests, by path and status")
        self._seconds = meter.create_histogram_float(GATEWAY_SECONDS, "Seconds until the end of a response")
        self._streams = meter.create_gauge("parley_gateway_open_streams", "Responses that are being streamed")
        self._open = 0

    @classmethod
    def serve(cls) -> "GatewayMetrics":
        """Metrics with an exporter on a free port of loopback, whose text `/metrics` passes on."""
        address = _free_address()
        return cls(address, *serve_metrics(address))

    def ended(self, path: str, method: str, status: int, seconds: float) -> None:
        """Count a request. `path`: the route's template, so that there are few different ones."""
        labels = {"path": path, "method": method, "status": str(status)}
        self._requests.add(1, labels)
        self._seconds.record(seconds, {"path": path})

    def streams(self, change: int) -> None:
        """Count a stream that begins (1) or ends (-1)."""
        self._open += change
        self._streams.set(self._open)

    async def text(self) -> str:
        """All metrics of the process in the Prometheus format; empty without an exporter.

        Raises:
            Unreachable: the exporter does not answer.
        """
        if self._address is None:
            return ""
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=EXPORTER_SECONDS) as client:
                return (await client.get(f"http://{self._address}/metrics")).raise_for_status().text
        except httpx.HTTPError as error:
            raise Unreachable(f"the exporter of metrics does not answer: {type(error).__name__}") from error


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        host, port = free.getsockname()
    return f"{host}:{port}"
