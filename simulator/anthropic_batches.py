"""Anthropic's batches of messages: https://platform.claude.com/docs/en/api/creating-message-batches."""

import re
from typing import Any

from starlette.requests import Request

from simulator.anthropic import Messages
from simulator.batches import Batch, Batches, Line, Result, as_json_lines, as_time, page_of
from simulator.state import State
from simulator.wire import Refusal, read_json_object

CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MOST_LINES, MOST_LISTED = 100_000, 1000
RESULTS = {"expired": "expired", "cancelled": "canceled"}


class AnthropicBatches:
    """The answers of the endpoints. Each takes a request, and the name of a fault where it creates a batch."""

    def __init__(self, messages: Messages, state: State) -> None:
        self._batches = Batches(messages, state, "msgbatch_", messages.parse)

    async def create(self, request: Request, fault: str) -> object:
        body = await read_json_object(request)
        requests = body.get("requests")
        if body.keys() != {"requests"} or not isinstance(requests, list) or not 1 <= len(requests) <= MOST_LINES:
            raise Refusal("bad_request", f"requests: List should have 1 to {MOST_LINES} items")
        lines = [_line(given, number) for number, given in enumerate(requests)]
        if len({line.custom_id for line in lines}) < len(lines):
            raise Refusal("bad_request", "requests: custom_id values must be unique within a batch")
        if fault == "batch_rejected":
            raise Refusal("bad_request", "requests: this batch cannot be processed")
        return _shown(self._batches.create(lines, fault), request)

    async def retrieve(self, request: Request, _fault: str) -> object:
        return _shown(await self._batches.get(request.path_params["id"]), request)

    async def cancel(self, request: Request, _fault: str) -> object:
        return _shown(await self._batches.cancel(request.path_params["id"]), request)

    async def list(self, request: Request, _fault: str) -> object:
        limit = min(int(request.query_params.get("limit", "20")), MOST_LISTED)
        page, more = page_of(await self._batches.listed(), request.query_params.get("after_id"), limit)
        ends = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
        return {"data": [_shown(batch, request) for batch in page], "has_more": more} | ends

    async def results(self, request: Request, _fault: str) -> bytes:
        batch = await self._batches.get(request.path_params["id"])
        if batch.results is None:
            raise Refusal("bad_request", "The batch has not ended: it has no results yet.")
        return as_json_lines(batch, [_result(result) for result in batch.results])


def _line(given: object, number: int) -> Line:
    if not isinstance(given, dict) or not CUSTOM_ID.fullmatch(str(given.get("custom_id"))):
        message = f"requests.{number}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
        raise Refusal("bad_request", message)
    if not isinstance(given.get("params"), dict):
        raise Refusal("bad_request", f"requests.{number}.params: Field required")
    return Line(given["custom_id"], given["params"])


def _shown(batch: Batch, request: Request) -> dict[str, Any]:
    has_ended = batch.results is not None
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if has_ended else "in_progress",
        "request_counts": {
            "processing": 0 if has_ended else len(batch.lines),
            "succeeded": batch.count("answered"),
            "errored": batch.count("refused"),
            "canceled": batch.count("cancelled"),
            "expired": batch.count("expired"),
        },
        "created_at": as_time(batch.created_at),
        "expires_at": as_time(batch.created_at + 86_400),
        "ended_at": as_time(batch.ended_at),
        "cancel_initiated_at": as_time(batch.ended_at) if batch.cancelled else None,
        "archived_at": None,
        "results_url": f"{request.base_url}anthropic/v1/messages/batches/{batch.id}/results" if has_ended else None,
    }


def _result(result: Result) -> dict[str, Any]:
    if result.outcome == "answered":
        usage = result.body["usage"] | {"service_tier": "batch"}
        found: dict[str, Any] = {"type": "succeeded", "message": result.body | {"usage": usage}}
    elif result.outcome == "refused":
        found = {"type": "errored", "error": result.body}
    else:
        found = {"type": RESULTS[result.outcome]}
    return {"custom_id": result.line.custom_id, "result": found}
