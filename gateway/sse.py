"""Server-sent events: their frames, and the response that sends them."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi.responses import StreamingResponse

EVENT_STREAM = "text/event-stream"
# Sent where nothing came for a while, so that neither end takes the connection for dead.
IDLE = ": idle\n\n"


def frame(data: Any, kind: str | None = None, event_id: str | None = None) -> str:
    """An event on the wire. JSON has no line feed of its own, so that no text can end the frame."""
    named = f"id: {event_id}\n" if event_id else ""
    typed = f"event: {kind}\n" if kind else ""
    return f"{named}{typed}data: {json.dumps(data, separators=(',', ':'))}\n\n"


def response(frames: AsyncIterator[str], headers: Mapping[str, str] | None = None) -> StreamingResponse:
    """A response that no cache keeps and no proxy holds back."""
    own = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(frames, headers=own | dict(headers or {}), media_type=EVENT_STREAM)
