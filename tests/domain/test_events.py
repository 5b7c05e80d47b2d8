"""Events are signed by Standard Webhooks, have a stable id, and have a last attempt."""

import base64
import hashlib
import hmac
import json
import re
from datetime import UTC, datetime, timedelta
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pytest

from parley.domain.events import WAITS, Event, headers, next_wait, signature, signing_key

WRITTEN = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
NOW = datetime(2026, 11, 20, 9, 31, tzinfo=UTC)


def event(**changes: Any) -> Event:
    values: dict[str, Any] = {
        "id": 7,
        "workspace_id": "acme",
        "kind": "ai_generation_completed",
        "payload": {"cost_usd": "0.001", "note": "größer"},
        "created_at": WRITTEN,
        "tries": 1,
    }
    return Event(**{**values, **changes})


def test_a_signature_is_the_one_of_the_specification():
    """The example of the specification's own libraries."""
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}', key)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_headers_sign_the_body_that_is_sent():
    sent = headers(event(), b"key", NOW)
    assert sent["webhook-timestamp"] == str(int(NOW.timestamp()))
    signed = f"{sent['webhook-id']}.{sent['webhook-timestamp']}.".encode() + event().body
    expected = base64.b64encode(hmac.new(b"key", signed, hashlib.sha256).digest()).decode()
    assert sent["webhook-signature"] == f"v1,{expected}"


def test_the_body_has_kind_time_and_data():
    assert json.loads(event().body) == {
        "type": "ai_generation_completed",
        "timestamp": "2026-11-20T09:30:00+00:00",
        "data": {"workspace_id": "acme", "cost_usd": "0.001", "note": "größer"},
    }


def test_a_message_keeps_its_id_and_shares_it_with_no_other():
    assert event(tries=5).message_id == event().message_id
    others = [event(id=8), event(workspace_id="globex"), event(created_at=WRITTEN + timedelta(microseconds=1))]
    assert len({each.message_id for each in [event(), *others]}) == 4


def test_a_secret_is_base64_after_its_prefix_and_plain_text_without_it():
    assert signing_key("whsec_aGVsbG8=") == b"hello"
    assert signing_key("aGVsbG8=") == b"aGVsbG8="


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64"])
def test_an_invalid_secret_is_refused_without_quoting_it(secret: str):
    with pytest.raises(ValueError, match=r"^is (empty|not base64 after whsec_)$"):
        signing_key(secret)


def test_the_wait_grows_until_the_last_attempt():
    waits = list(takewhile(bool, map(next_wait, count(1))))
    assert waits == sorted(waits) == list(WAITS)
    assert sum(waits, timedelta()) > timedelta(days=3), "a receiver that is away over a weekend misses nothing"


def test_the_receivers_code_in_the_documentation_verifies_what_is_sent():
    """It also refuses a changed body, a signature with another secret, and an old message."""
    page = Path(__file__).parents[2] / "docs" / "operations.md"
    code = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert code
    receiver: dict[str, Any] = {}
    exec(code.group(1), receiver)
    for secret in ("whsec_aGVsbG8=", "plain"):
        key, body = signing_key(secret), event().body
        sent = headers(event(), key, datetime.now(UTC))
        assert receiver["verified"](sent, body, secret)
        assert not receiver["verified"](sent, body + b" ", secret)
        assert not receiver["verified"](sent, body, "another")
        assert not receiver["verified"](headers(event(), key, NOW - timedelta(days=365)), body, secret)
