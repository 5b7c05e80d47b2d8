"""Reads the metrics that a worker exports."""

import re
import socket

import httpx2


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


async def scraped(address: str) -> str:
    async with httpx2.AsyncClient() as http:
        response = await http.get(f"http://{address}/metrics")
    assert response.status_code == 200
    return response.text


def values(text: str, name: str) -> dict[str, float]:
    """The samples of one metric, by their labels in text form."""
    found = re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    return {re.sub(r',?service_name="[^"]*"', "", labels).strip(","): float(value) for labels, value in found}
