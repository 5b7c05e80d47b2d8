"""Recordings by URL: fetched from public hosts only, whole, and known by their content."""

import asyncio
import ipaddress
import socket

import pytest

from parley import InvalidInput
from parley.client import fetching
from parley.client.fetching import fetch_recording, is_public, is_url
from tests.pages import reply, serving
from tests.parts import SAMPLES

RECORDING = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()


async def problem(url: str, **options: object) -> str:
    with pytest.raises(InvalidInput) as caught:
        await fetch_recording(url, **options)  # pyright: ignore[reportArgumentType]
    return str(caught.value)


async def test_a_recording_of_a_trusted_host_is_known_by_its_content():
    pages = {
        "/call": reply("200 OK", RECORDING, **{"content-type": "text/html"}),
        "/page": reply("200 OK", b"<html></html>", **{"content-type": "audio/ogg"}),
        "/moved": reply("302 Found", location="/call?signature=new"),
        "/gone": reply("403 Forbidden"),
    }
    async with serving(pages) as (host, asked):
        assert await fetch_recording(f"http://{host}/call?signature=s3cret", hosts=[host]) == RECORDING
        assert await fetch_recording(f"http://{host}/moved", hosts=[host]) == RECORDING
        assert asked == ["/call?signature=s3cret", "/moved", "/call?signature=new"]
        assert "is not audio" in await problem(f"http://{host}/page", hosts=[host])
        refused = await problem(f"http://ann:pass@{host}/gone?signature=s3cret", hosts=[host])
        assert refused == f"http://{host}/gone: cannot be fetched: its server answers 403"


async def test_a_private_host_is_not_asked_even_by_a_redirect_or_a_name():
    async with serving({"/secret": reply("200 OK", RECORDING)}) as (private, asked):
        port = private.partition(":")[2]
        pages = {"/to-http": reply("302 Found", location=f"http://{private}/secret")}
        pages["/to-https"] = reply("302 Found", location=f"https://127.0.0.1:{port}/secret")
        async with serving(pages) as (host, _):
            assert "http:// is not fetched" in await problem(f"http://{host}/to-http", hosts=[host])
            assert "is not a public host" in await problem(f"http://{host}/to-https", hosts=[host])
        for written in ("localhost", "127.0.0.1", "127.1", "[::1]"):
            assert "is not a public host" in await problem(f"https://{written}:{port}/secret"), written
        assert asked == []


async def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch):
    """A name that is public when it is checked, and private when it is resolved again."""
    async with serving({"/secret": reply("200 OK", RECORDING)}) as (private, asked):
        port = int(private.partition(":")[2])
        answers = iter(["127.0.0.2", "127.0.0.1"])

        async def resolved(*_: object, **__: object) -> list[tuple[object, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        monkeypatch.setattr(fetching, "is_public", lambda _: True)
        assert "cannot be fetched" in await problem(f"https://rebound.example:{port}/secret", seconds=0.3)
        assert asked == []


async def test_a_fetch_ends_in_time_and_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "MAX_RECORDING_BYTES", 1000)
    pages = {"/large": reply("200 OK", RECORDING), "/silent": None, "/loop": reply("302 Found", location="/loop")}
    async with serving(pages) as (host, asked):
        assert "more than the 1,000 bytes" in await problem(f"http://{host}/large", hosts=[host])
        assert "cannot be fetched within 0.2 s" in await problem(f"http://{host}/silent", hosts=[host], seconds=0.2)
        assert "TooManyRedirects" in await problem(f"http://{host}/loop", hosts=[host])
        assert asked.count("/loop") == fetching.MOST_REDIRECTS + 1


async def test_the_body_of_a_redirect_is_not_read():
    """It may be endless, and is not of use: the place to go to is in the head."""
    moved = reply("302 Found", location="/call").replace(b"content-length: 0", b"content-length: 1000000000")
    async with serving({"/moved": moved, "/call": reply("200 OK", RECORDING)}) as (host, asked):
        assert await fetch_recording(f"http://{host}/moved", hosts=[host]) == RECORDING
        assert asked == ["/moved", "/call"]


@pytest.mark.parametrize(
    "url", ["s3://bucket/call.wav", "gs://bucket/call.wav", "file:///etc/passwd", "http://example.org/"]
)
async def test_other_schemes_are_refused_with_what_to_do(url: str):
    assert "presigned" in await problem(url)


def test_a_windows_path_is_not_a_url():
    assert [is_url(text) for text in ("https://a.example/b", "C:\\calls\\a.wav", "calls/a.wav")] == [True, False, False]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1111", True),
        ("::ffff:93.184.215.14", True),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:a00:1::1", False),
    ],
)
def test_addresses_that_are_public(address: str, public: bool):
    assert is_public(ipaddress.ip_address(address)) is public
