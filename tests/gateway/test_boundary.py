"""What surrounds every request: ids, hosts, limits, errors, health."""

import asyncio
import logging

import httpx
import pytest
from temporalio.client import Client as TemporalClient

from parley import Backend, Client, Settings
from tests.gateway.parts import Running, running_gateway, sent
from tests.parts import until


async def test_it_is_alive_and_ready(gateway: Running):
    async with gateway.http() as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert (await http.get("/readyz")).json() == {"status": "ready"}


async def test_it_is_not_ready_while_it_drains(gateway: Running):
    async with gateway.http() as http:
        await http.get("/healthz")
        gateway.server._gateway.draining.set()
        answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "Draining", "1")


async def test_it_is_not_ready_while_temporal_says_nothing(
    backend: Backend, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gateway.state.READY_SECONDS", 0.1)
    silent = await asyncio.start_server(lambda *_: asyncio.Event().wait(), "127.0.0.1", 0)
    host, port = silent.sockets[0].getsockname()
    temporal = await TemporalClient.connect(f"{host}:{port}", lazy=True)
    mute = Backend(temporal, backend.database, settings)
    async with (
        running_gateway(mute, settings.model_copy(update={"gateway_port": 0})) as gateway,
        gateway.http() as http,
    ):
        answer = await http.get("/readyz", timeout=8)
    silent.close()
    assert (answer.status_code, answer.json()["code"]) == (503, "Unreachable")


async def test_a_safe_request_id_is_used_and_another_one_is_replaced(gateway: Running):
    async with gateway.http() as http:
        given = await http.get("/healthz", headers={"x-request-id": "a-1.b:2", "x-correlation-id": "order-7"})
        made = await http.get("/healthz", headers={"x-request-id": "a b"})
    assert (given.headers["x-request-id"], given.headers["x-correlation-id"]) == ("a-1.b:2", "order-7")
    assert len(made.headers["x-request-id"]) == 32
    assert made.headers["x-correlation-id"] == made.headers["x-request-id"]


async def test_an_unknown_path_and_a_wrong_method_are_problems(gateway: Running):
    async with gateway.http() as http:
        missing = await http.get("/nowhere", headers={"x-request-id": "r-1"})
        wrong = await http.delete("/healthz")
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.json() == {
        "type": "urn:parley:error:NotFound",
        "title": "There is no such object",
        "status": 404,
        "detail": "there is no such path",
        "code": "NotFound",
        "kind": "not_found",
        "http_request_id": "r-1",
    }
    assert (wrong.status_code, wrong.json()["code"], wrong.headers["allow"]) == (405, "MethodNotAllowed", "GET")


@pytest.mark.parametrize(
    ("path", "place"),
    [("/v1/nowhere", lambda body: body["error"]["code"]), ("/v1/messages/nowhere", lambda body: body["error"]["type"])],
)
async def test_a_vendors_path_has_the_vendors_errors(path: str, place, gateway: Running):
    async with gateway.http() as http:
        answer = await http.get(path)
    assert answer.status_code == 404
    assert place(answer.json()) in ("NotFound", "not_found_error")


async def test_a_host_that_is_not_trusted_is_refused(gateway: Running):
    async with gateway.http() as http:
        answer = await http.get("/metrics", headers={"host": "evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidInput")
    assert "PARLEY_GATEWAY_TRUSTED_HOSTS" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["api.example.com", "a.b.example.com:8443"])
async def test_all_hosts_below_a_name_can_be_trusted(host: str, backend: Backend, settings: Settings):
    trusting = settings.model_copy(update={"gateway_port": 0, "gateway_trusted_hosts": "*.example.com"})
    async with running_gateway(backend, trusting) as gateway, gateway.http() as http:
        assert (await http.get("/metrics", headers={"host": host})).status_code == 200
        assert (await http.get("/metrics", headers={"host": "badexample.com"})).status_code == 400


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_probe_may_name_any_host(path: str, backend: Backend, settings: Settings):
    """Containers and clusters probe a loopback address, or that of a pod, whatever the public name is."""
    public = settings.model_copy(update={"gateway_port": 0, "gateway_trusted_hosts": "parley.example.com"})
    async with running_gateway(backend, public) as gateway, gateway.http() as http:
        for host in ("127.0.0.1:8700", "10.1.2.3:8700"):
            assert (await http.get(path, headers={"host": host})).status_code == 200


async def test_the_host_of_the_phones_public_address_is_trusted(backend: Backend, settings: Settings):
    public = settings.model_copy(update={"gateway_port": 0, "phone_public_url": "https://Phone.example.com:8443"})
    async with running_gateway(backend, public) as gateway, gateway.http() as http:
        for host, status in (("phone.example.com", 200), ("phone.example.com:8443", 200), ("example.com", 400)):
            assert (await http.get("/metrics", headers={"host": host})).status_code == status


async def test_a_connection_that_says_nothing_is_closed(impatient: Running):
    assert await sent(impatient, b"") == b""


async def test_a_connection_whose_headers_do_not_end_is_closed(impatient: Running):
    assert await sent(impatient, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n") == b""


async def test_a_line_of_the_log_has_the_ids_and_cannot_be_forged(gateway: Running, caplog: pytest.LogCaptureFixture):
    from gateway.boundary import GatewayFormatter  # noqa: PLC0415

    with caplog.at_level(logging.INFO, "parley.gateway"):
        formatter, lines = GatewayFormatter(), []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(formatter.format(record))
        logging.getLogger("parley.gateway").addHandler(handler)
        try:
            async with gateway.http() as http:
                ids = {"x-request-id": "r-7", "x-correlation-id": "c-8"}
                await http.get("/no%0A2026-01-01 ERROR forged", headers=ids)
        finally:
            logging.getLogger("parley.gateway").removeHandler(handler)
    [line] = lines
    assert "[r-7 c-8] GET /no%0A2026-01-01%20ERROR%20forged 404" in line
    assert "\n" not in line


async def test_pages_of_other_origins_may_not_use_it_unless_configured(
    gateway: Running, backend: Backend, settings: Settings
):
    asked = {"origin": "https://app.example", "access-control-request-method": "GET"}
    async with gateway.http() as http:
        assert "access-control-allow-origin" not in (await http.options("/healthz", headers=asked)).headers
    opened = settings.model_copy(update={"gateway_port": 0, "gateway_cors_origins": "https://app.example"})
    async with running_gateway(backend, opened) as open_gateway, open_gateway.http() as http:
        answer = await http.options("/healthz", headers=asked)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"


async def test_a_page_of_another_origin_reads_headers_and_every_error(
    backend: Backend, settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
):
    limits = {"gateway_port": 0, "gateway_body_bytes": 100, "gateway_read_seconds": 1}
    opened = settings.model_copy(update={**limits, "gateway_cors_origins": "https://app.example"})
    secret = (await client.gateway_keys.create("page")).secret
    path, typed = "/api/jobs/generate", {"content-type": "application/json"}

    async def fail() -> None:
        raise ZeroDivisionError

    async with running_gateway(backend, opened) as gateway, gateway.http(secret) as http:
        monkeypatch.setattr(gateway.server._gateway, "check_servers", fail)

        async def asked(origin: str) -> list[httpx.Response]:
            headers = {"origin": origin}
            return [
                await http.get("/healthz", headers=headers),
                await http.get("/api/jobs", headers={**headers, "authorization": "Bearer x"}),
                await http.get("/metrics", headers={**headers, "host": "evil.example"}),
                await http.post(path, content=b"x" * 101, headers={**headers, **typed}),
                await http.get("/readyz", headers=headers),
            ]

        answers = await asked("https://app.example")
        assert [answer.status_code for answer in answers] == [200, 401, 400, 413, 500]
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            assert (answer.headers["access-control-expose-headers"], answer.headers["vary"]) == ("*", "Origin")
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n"
        head += "Origin: https://app.example\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        stopped = await sent(gateway, head.encode())
        assert stopped.startswith(b"HTTP/1.1 408 ")
        assert b"access-control-allow-origin: https://app.example\r\n" in stopped
        for answer in await asked("https://evil.example"):
            assert "access-control-allow-origin" not in answer.headers
        preflight = {"origin": "https://app.example", "access-control-request-method": "GET", "host": "evil.example"}
        assert (await http.options("/metrics", headers=preflight)).status_code == 400


async def test_an_unexpected_error_says_nothing_of_its_own(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async def fail() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(gateway.server._gateway, "check_servers", fail)
    async with gateway.http() as http:
        answer = await http.get("/readyz", headers={"x-request-id": "r-9"})
    assert (answer.status_code, answer.json()["code"], answer.headers["x-should-retry"]) == (
        500,
        "ParleyError",
        "false",
    )
    assert answer.headers["x-request-id"] == "r-9"
    assert "secret detail" not in answer.text
    assert "secret detail" in caplog.text


async def test_the_openapi_document_has_one_shape_of_errors(gateway: Running):
    async with gateway.http() as http:
        document = (await http.get("/openapi.json")).json()
    answers = document["paths"]["/readyz"]["get"]["responses"]
    assert "422" not in answers
    assert answers["503"]["content"].keys() == {"application/problem+json"}
    assert (await http_get(gateway, "/docs")) == httpx.codes.NOT_FOUND


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/embeddings", "/api/chat/stream"])
async def test_a_caller_that_leaves_within_its_body_is_not_an_error_of_the_gateway(
    path: str, gateway: Running, secret: str, caplog: pytest.LogCaptureFixture
):
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n"
    begun = f'{head}Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{{"model": '
    _, writer = await asyncio.open_connection(*gateway.address)
    with caplog.at_level(logging.INFO, "parley.gateway"):
        writer.write(begun.encode())
        await writer.drain()
        writer.close()
        await until(lambda: logged(caplog, f"POST {path}"))
    assert f"POST {path} 499" in caplog.text
    assert "no handler expected" not in caplog.text


async def logged(caplog: pytest.LogCaptureFixture, line: str) -> bool:
    return line in caplog.text


async def http_get(gateway: Running, path: str) -> int:
    async with gateway.http() as http:
        return (await http.get(path)).status_code
