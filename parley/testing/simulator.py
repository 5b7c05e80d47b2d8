"""Control of a running simulator: its faults, its gate, and the requests that it received and billed."""

import ssl
from functools import cache
from typing import Any

import httpx2

HTTP_TIMEOUT_SECONDS = 70
# The simulator waits no longer than this for requests to arrive.
MAX_WAIT_SECONDS = 30


@cache
def _tls() -> ssl.SSLContext:
    """One for all clients: to read the CA certificates takes 10 ms, and each test has a client."""
    return httpx2.create_ssl_context(trust_env=False)


class SimulatorAdmin:
    """Client of the simulator's endpoints under `/admin`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx2.AsyncClient(base_url=url, timeout=HTTP_TIMEOUT_SECONDS, trust_env=False, verify=_tls())

    async def post(self, path: str, **body: Any) -> Any:
        """Post to an endpoint under `/admin`, and return its answer.

        Raises:
            AssertionError: the simulator refused it; the message says why.
        """
        return self._answer(await self._http.post(f"/admin/{path}", json=body))

    async def requests(self, **query: Any) -> list[dict[str, Any]]:
        """The requests that the simulator received.

        Args:
            query: `provider`, `attempt_id`, `state` or `billed` select some; `at_least=N` waits until there are N.

        Raises:
            AssertionError: there were fewer than N within 30 seconds.
        """
        return self._answer(await self._http.get("/admin/requests", params={"timeout": MAX_WAIT_SECONDS, **query}))

    async def billed(self) -> list[dict[str, Any]]:
        """The requests that a provider would have billed."""
        return [request for request in await self.requests() if request["billed"]]

    async def fault(self, fault: str, **terms: Any) -> None:
        """Plan a fault for the next request that can show it.

        Args:
            fault: for example `rate_limit`, `server_error`, `context_too_long`, `truncated` or `hang`.
            terms: `provider`, default all; `times`, default 1, None until `reset`; `after`, how many requests it skips
                first; `retry_after` and `hold`, in seconds.
        """
        await self.post("faults", fault=fault, **terms)

    async def gate(self, *, closed: bool, provider: str = "anthropic") -> None:
        """While the gate is closed, the simulator receives and bills requests; it answers them when the gate opens."""
        await self.post("gate", provider=provider, closed=closed)

    async def reset(self) -> None:
        """Forget the requests and the planned faults, and open the gates."""
        await self.post("reset")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @staticmethod
    def _answer(response: httpx2.Response) -> Any:
        if response.status_code != httpx2.codes.OK:
            raise AssertionError(f"the simulator refused it: {response.text}")
        return response.json()
