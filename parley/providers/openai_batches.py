"""OpenAI's batches: https://developers.openai.com/api/docs/guides/batch."""

import json
from collections.abc import AsyncGenerator
from typing import Any, BinaryIO

import openai
from openai.types import Batch
from openai.types.chat import ChatCompletion

from parley.domain.errors import Billed, ProviderError, ProviderUnavailable
from parley.domain.pricing import BATCH
from parley.domain.requests import Request
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
from parley.providers.openai import ERRORS, OpenAIAdapter
from parley.providers.protocol import errors_mapped, vendor_text

ENDPOINT = "/v1/chat/completions"
SUBMISSION_METADATA = "parley_submission_id"
STATES = {
    "validating": "working",
    "in_progress": "working",
    "finalizing": "working",
    "cancelling": "working",
    "completed": "ended",
    "expired": "ended",
    "cancelled": "ended",
    "failed": "rejected",
}
# The vendor deletes the files: they contain what users said.
FILES_EXPIRE_AFTER: Any = {"anchor": "created_at", "seconds": 3 * 86400}


class OpenAIBatches(OpenAIAdapter):
    """The batches of chat completions of OpenAI, or of a compatible server."""

    limits = Limits(lines=50_000, bytes=200_000_000)

    def line(self, request: Request, model: str, attempt_id: str) -> bytes:
        body = self._body(request, model, attempt_id)
        line = {"custom_id": attempt_id, "method": "POST", "url": ENDPOINT, "body": body}
        return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode()

    async def submit(self, lines: BinaryIO, sending: Sending) -> str:
        with errors_mapped(openai.APIError, self._mapped, self._key):
            uploaded = await self._client.files.create(
                file=(f"{sending.submission_id}.jsonl", lines, "application/jsonl"),
                purpose="batch",
                expires_after=FILES_EXPIRE_AFTER,
            )
            batch = await self._client.batches.create(
                input_file_id=uploaded.id,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata={SUBMISSION_METADATA: sending.submission_id},
                output_expires_after=FILES_EXPIRE_AFTER,
            )
            return batch.id

    async def find(self, sending: Sending) -> str | None:
        """By our id in the metadata. Batches are listed from the newest on."""
        oldest = sending.sent_at.timestamp() - 3600
        with errors_mapped(openai.APIError, self._mapped, self._key):
            async for batch in self._client.batches.list(limit=LISTED_AT_ONCE):
                if (batch.metadata or {}).get(SUBMISSION_METADATA) == sending.submission_id:
                    return batch.id
                if batch.created_at < oldest:
                    break
        return None

    async def status(self, vendor_id: str) -> BatchStatus:
        with errors_mapped(openai.APIError, self._mapped, self._key):
            return self._status(await self._client.batches.retrieve(vendor_id))

    def _status(self, batch: Batch) -> BatchStatus:
        counts = batch.request_counts
        return BatchStatus(
            state=STATES.get(batch.status, "working"),  # pyright: ignore[reportArgumentType] - the values of STATES
            answered=counts.completed if counts else 0,
            failed=counts.failed if counts else 0,
            problem=_problem(batch),
            is_complete=batch.status == "completed",
        )

    async def cancel(self, vendor_id: str) -> None:
        with errors_mapped(openai.APIError, self._mapped, self._key):
            try:
                await self._client.batches.cancel(vendor_id)
            except (openai.ConflictError, openai.BadRequestError):  # it has ended
                return

    async def results(self, vendor_id: str) -> AsyncGenerator[LineResult]:
        """The lines of the output file, and those of the file of errors."""
        with errors_mapped(openai.APIError, self._mapped, self._key):
            batch = await self._client.batches.retrieve(vendor_id)
            for file in filter(None, (batch.output_file_id, batch.error_file_id)):
                async with self._client.files.with_streaming_response.content(file) as content:
                    async for line in lines_in(content.iter_bytes()):
                        yield self._result(line)

    def _result(self, line: str) -> LineResult:
        given = read_line(line)
        if given is None:
            return LineResult()
        attempt_id, response = text_of(given.get("custom_id")), fields_of(given.get("response"))
        body, status = fields_of(response.get("body")), response.get("status_code")
        try:
            if given.get("error") or status != 200:
                raise _refused(self._provider.value, given.get("error") or body, status)
            with errors_mapped(openai.APIError, self._mapped, self._key):
                completion = ChatCompletion.construct(None, **(body | {"service_tier": BATCH}))
                return LineResult(attempt_id, reply=self._reply(completion))
        except ProviderError as error:
            return LineResult(attempt_id, error=error)


def _refused(name: str, error: object, status: object) -> ProviderError:
    """The error of a line without a reply, which is not billed."""
    if isinstance(status, int) and status >= 400:
        mapped = ERRORS.error(name, status, error, None)
        mapped.billed = Billed.NO
        return mapped
    given = fields_of(error)
    detail = text_of(given.get("message")) or text_of(given.get("code")) or "the line has no response"
    return ProviderUnavailable(name, vendor_text(detail), billed=Billed.NO)


def _problem(batch: Batch) -> str:
    """The first error of the file, with its line."""
    first = next(iter((batch.errors.data if batch.errors else None) or ()), None)
    if first is None:
        return ""
    place = f" (line {first.line})" if first.line else ""
    return vendor_text(f"{first.message or first.code}{place}")
