"""Anthropic's batches of messages: https://platform.claude.com/docs/en/build-with-claude/batch-processing."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, BinaryIO

import anthropic
from anthropic.types import Message as AnthropicMessage
from anthropic.types.messages import MessageBatch

from parley.domain.errors import Billed, ProviderError, ProviderUnavailable
from parley.domain.pricing import BATCH
from parley.domain.requests import Request
from parley.providers.anthropic import ERRORS, NAME, AnthropicAdapter, mapped_error, read_message, sent_arguments
from parley.providers.batch_api import (
    LISTED_AT_ONCE,
    BatchStatus,
    Limits,
    LineResult,
    Sending,
    fields_of,
    lines_in,
    read_line,
    text_of,
)
from parley.providers.protocol import errors_mapped, vendor_text

# The clocks of this machine and of the vendor may differ by so much.
CLOCK_DIFFERENCE = timedelta(minutes=5)
# Of a line, what each type of result means. The others are errors of their own.
NOT_PROCESSED = {
    "canceled": "the batch was cancelled before this line",
    "expired": "the batch expired before this line",
}


class AnthropicBatches(AnthropicAdapter):
    """The batches of Anthropic, or of a compatible server.

    The vendor accepts 256 MB. The SDK takes all lines at once, so that a worker would need several times as much.
    """

    limits = Limits(lines=100_000, bytes=64_000_000)

    def line(self, request: Request, model: str, attempt_id: str) -> bytes:
        params = sent_arguments(request, model, attempt_id)
        del params["extra_headers"]  # a line has none: its id is the attempt's
        line = {"custom_id": attempt_id, "params": params}
        return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode()

    async def submit(self, lines: BinaryIO, sending: Sending) -> str:  # noqa: ARG002 - the vendor keeps no id of ours
        requests: Any = [json.loads(line) for line in lines]
        with errors_mapped(anthropic.APIError, mapped_error, self._key):
            return (await self._client.messages.batches.create(requests=requests)).id

    async def find(self, sending: Sending) -> str | None:
        """By the ids of the lines. The vendor keeps no id of ours, and shows the lines only when they are processed.

        Of the batches that were created since, only those with as many lines can be it.
        """
        oldest = sending.sent_at - CLOCK_DIFFERENCE
        undecided = False
        with errors_mapped(anthropic.APIError, mapped_error, self._key):
            async for batch in self._client.messages.batches.list(limit=LISTED_AT_ONCE):
                if batch.created_at < oldest:
                    break
                if _lines(batch) != sending.lines:
                    continue
                if batch.processing_status != "ended" or batch.results_url is None:
                    undecided = True
                elif await self._is_of(batch.id, sending):
                    return batch.id
        if undecided:
            detail = "a batch with as many lines is being processed, and may be the one that was sent"
            raise ProviderUnavailable(NAME, detail, billed=Billed.NO)
        return None

    async def _is_of(self, vendor_id: str, sending: Sending) -> bool:
        """Whether a batch has these lines: its first one decides, since each id belongs to one batch alone."""
        async for line in self._lines_of(vendor_id):
            given = read_line(line)
            if given is not None:
                return text_of(given.get("custom_id")) in sending.attempt_ids
        return False

    async def status(self, vendor_id: str) -> BatchStatus:
        with errors_mapped(anthropic.APIError, mapped_error, self._key):
            batch = await self._client.messages.batches.retrieve(vendor_id)
            counts = batch.request_counts
            return BatchStatus(
                state="ended" if batch.processing_status == "ended" else "working",
                answered=counts.succeeded,
                failed=counts.errored + counts.expired + counts.canceled,
                is_complete=not (counts.expired or counts.canceled),
            )

    async def cancel(self, vendor_id: str) -> None:
        with errors_mapped(anthropic.APIError, mapped_error, self._key), suppress(anthropic.BadRequestError):
            await self._client.messages.batches.cancel(vendor_id)

    async def results(self, vendor_id: str) -> AsyncGenerator[LineResult]:
        with errors_mapped(anthropic.APIError, mapped_error, self._key):
            async for line in self._lines_of(vendor_id):
                yield _result(line, self._key)

    async def _lines_of(self, vendor_id: str) -> AsyncIterator[str]:
        """The lines of the results, unread: the SDK gives up at the first one that is not JSON."""
        batches = self._client.messages.batches.with_streaming_response
        async with batches.results(vendor_id) as content:
            async for line in lines_in(content.iter_bytes()):
                yield line


def _lines(batch: MessageBatch) -> int:
    counts = batch.request_counts
    return counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired


def _result(line: str, key: str) -> LineResult:
    given = read_line(line)
    if given is None:
        return LineResult()
    attempt_id, result = text_of(given.get("custom_id")), fields_of(given.get("result"))
    try:
        if result.get("type") != "succeeded":
            raise _refused(result)
        message = fields_of(result.get("message"))
        usage = fields_of(message.get("usage")) | {"service_tier": BATCH}
        with errors_mapped(anthropic.APIError, mapped_error, key):
            return LineResult(
                attempt_id, reply=read_message(AnthropicMessage.construct(None, **(message | {"usage": usage})), None)
            )
    except ProviderError as error:
        return LineResult(attempt_id, error=error)


def _refused(result: dict[str, Any]) -> ProviderError:
    """The error of a line without a reply, which is not billed."""
    kind = text_of(result.get("type"))
    if kind in NOT_PROCESSED:
        return ProviderUnavailable(NAME, NOT_PROCESSED[kind], billed=Billed.NO)
    if kind != "errored":
        return ProviderUnavailable(NAME, vendor_text(f"a result of the type {kind!r}"), billed=Billed.UNKNOWN)
    error = ERRORS.error(NAME, 200, result.get("error"), None)
    error.billed = Billed.NO
    return error
