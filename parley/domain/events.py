"""Events as a receiver gets them: Standard Webhooks (standardwebhooks.com), signed, at least once, in no sure order."""

import base64
import binascii
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from parley.domain.model import Model

SECRET_PREFIX = "whsec_"  # noqa: S105 - how a secret is spelled, not one
# Between one try and the next. After the last an event is given up: its receiver has been away for over three days.
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
    """An event under way. `tries`: this one included."""

    id: int
    workspace_id: str
    kind: str
    payload: dict[str, Any]
    created_at: datetime
    tries: int

    @property
    def message_id(self) -> str:
        """The same for each try, and another one in every database: by it a receiver knows what it has seen."""
        name = f"{self.workspace_id}/{self.id}/{self.created_at.astimezone(UTC).isoformat()}"
        return f"evt_{uuid5(NAMESPACE_OID, name).hex}"

    @property
    def body(self) -> bytes:
        data = {"workspace_id": self.workspace_id, **self.payload}
        message = {"type": self.kind, "timestamp": self.created_at.astimezone(UTC).isoformat(), "data": data}
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def next_wait(tries: int) -> timedelta | None:
    """How long to wait after that many failed tries; None where the event is given up."""
    return WAITS[tries - 1] if tries <= len(WAITS) else None


def signing_key(secret: str) -> bytes:
    """The key in a secret: base64 after `whsec_`, else the text itself.

    Raises:
        ValueError: it is empty, or not base64; the secret is not quoted.
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
    """What goes with the body. `now` is signed as well, so that an old message cannot be sent again by others."""
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
