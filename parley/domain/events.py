"""Events as a receiver gets them: signed Standard Webhooks (standardwebhooks.com), at least once, in any order."""

import base64
import binascii
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from parley.domain.model import Model

SECRET_PREFIX = "whsec_"  # noqa: S105 - how a secret is spelled, not one
# The delays between attempts. After the last one, over three days later, an event is not retried.
WAITS = (
    timedelta(seconds=5),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)


class Event(Model):
    """An event to deliver. `tries`: the number of attempts, including the present one."""

    id: int
    workspace_id: str
    kind: str
    attempt_id: UUID | None = None
    payload: dict[str, Any]
    created_at: datetime
    tries: int

    @property
    def message_id(self) -> str:
        """The idempotency key for the receiver: the same for each attempt, different in every database."""
        name = f"{self.workspace_id}/{self.id}/{self.created_at.astimezone(UTC).isoformat()}"
        return f"evt_{uuid5(NAMESPACE_OID, name).hex}"

    @property
    def body(self) -> bytes:
        attempt = {"attempt_id": str(self.attempt_id)} if self.attempt_id else {}
        data = {"workspace_id": self.workspace_id, **attempt, **self.payload}
        message = {"type": self.kind, "timestamp": self.created_at.astimezone(UTC).isoformat(), "data": data}
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def next_wait(tries: int) -> timedelta | None:
    """The delay after so many failed attempts; None if the event is not retried."""
    return WAITS[tries - 1] if tries <= len(WAITS) else None


def signing_key(secret: str) -> bytes:
    """The key in a secret: base64 after `whsec_`, else the text itself.

    Raises:
        ValueError: it is empty or not base64. The message does not quote the secret.
    """
    encoded = secret.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded, validate=True) if encoded != secret else secret.encode()
    except binascii.Error:
        raise ValueError(f"is not base64 after {SECRET_PREFIX}") from None
    if not key:
        raise ValueError("is empty")
    return key


def headers(event: Event, key: bytes, now: datetime) -> dict[str, str]:
    """The HTTP headers of the body. The timestamp `now` is signed too, against replay of old messages."""
    seconds = str(int(now.timestamp()))
    return {
        "content-type": "application/json",
        "webhook-id": event.message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": signature(event.message_id, seconds, event.body, key),
    }


def signature(message_id: str, timestamp: str, body: bytes, key: bytes) -> str:
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
