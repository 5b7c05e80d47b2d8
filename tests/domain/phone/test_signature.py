"""Twilio's signature: the documented example, ports, repeated fields, and other algorithms."""

import pytest

from parley.domain.phone.signature import is_signed, signature

TOKEN, URL = "12345", "https://example.com/myapp.php?foo=1&bar=2"
FIELDS = [("CallSid", "CA1234567890ABCDE"), ("Caller", "+14158675310"), ("Digits", "1234"), ("From", "+14158675310"),
          ("To", "+18005551212")]  # fmt: skip


def test_fields_are_signed_in_the_order_of_their_names():
    assert signature(TOKEN, URL, FIELDS) == signature(TOKEN, URL, FIELDS[::-1])
    flat = URL + "".join(name + value for name, value in FIELDS)
    assert signature(TOKEN, URL, FIELDS) == signature(TOKEN, flat)


def test_a_repeated_field_counts_with_each_value():
    twice = [("a", "2"), ("a", "1"), ("a", "2")]
    assert signature(TOKEN, URL, twice) == signature(TOKEN, URL, [("a", "1"), ("a", "2")])
    assert signature(TOKEN, URL, twice) != signature(TOKEN, URL, [("a", "2")])


@pytest.mark.parametrize(
    ("signed", "requested"),
    [
        ("https://a.example/x", "https://a.example:443/x"),
        ("https://a.example:443/x", "https://a.example/x"),
        ("wss://a.example/x", "wss://a.example:443/x"),
        ("http://a.example:80/x", "http://a.example/x"),
        ("http://a.example:8080/x", "http://a.example:8080/x"),
        ("ws://[::1]/x", "ws://[::1]:80/x"),
    ],
)
def test_a_standard_port_may_be_named(signed: str, requested: str):
    assert is_signed(signature(TOKEN, signed), [TOKEN], requested)


@pytest.mark.parametrize(
    "requested",
    [
        "http://a.example/x",
        "wss://a.example/x",
        "https://a.example/X",
        "https://a.example:8443/x",
    ],
)
def test_another_address_is_not_signed(requested: str):
    assert not is_signed(signature(TOKEN, "https://a.example/x"), [TOKEN], requested)


@pytest.mark.parametrize("given", [None, "", "x", "é"])
def test_without_the_right_signature_nothing_is_signed(given: str | None):
    assert not is_signed(given, [TOKEN], URL)
    assert not is_signed(signature(TOKEN, URL), [], URL)
    assert not is_signed(signature("other", URL), [TOKEN], URL)


@pytest.mark.parametrize(
    ("settings", "algorithm"),
    [
        (None, "HMAC_SHA1"),
        ("key=CR1,algorithm=HMAC_SHA256", "HMAC_SHA256"),
        ("key=CR1, algorithm = hmac-sha256", "HMAC_SHA256"),
        ("key=CR1,algorithm=HMAC_SHA1", "HMAC_SHA1"),
        ("key=CR1,algorithm=HMAC_MD5", None),
        ("key=CR1", None),
    ],
)
def test_the_header_selects_the_algorithm(settings: str | None, algorithm: str | None):
    for used in ("HMAC_SHA1", "HMAC_SHA256"):
        given = signature(TOKEN, URL, FIELDS, used)
        assert is_signed(given, [TOKEN], URL, FIELDS, settings=settings) == (used == algorithm)
