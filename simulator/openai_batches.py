"""OpenAI's files and batches: https://platform.openai.com/docs/api-reference/batch."""

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from simulator.batches import Batch, Batches, Line, Result, as_json_lines, page_of
from simulator.openai import ChatCompletions
from simulator.state import State
from simulator.wire import Refusal, read_json_object

ENDPOINT = "/v1/chat/completions"
MOST_LINES, MOST_BYTES, MOST_LISTED = 50_000, 200_000_000, 100
UPLOAD_FIELDS = re.compile(r"purpose|file|expires_after\[\w+\]")
CREATE_FIELDS = frozenset({"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"})


class OpenAIBatches:
    """The answers of the endpoints. Each takes a request, and the name of a fault where it creates a batch."""

    def __init__(self, chat: ChatCompletions, state: State) -> None:
        self._batches = Batches(chat, state, "batch_", chat.parse)
        self._files, self._numbers = state.files, state.batch_numbers

    async def upload(self, request: Request, _fault: str) -> object:
        form = await request.form(max_part_size=MOST_BYTES)
        unknown = [name for name in form if not UPLOAD_FIELDS.fullmatch(name)]
        given = form.get("file")
        if unknown or form.get("purpose") != "batch" or not isinstance(given, UploadFile):
            raise Refusal("bad_request", f"Invalid upload: {unknown or 'purpose and file are required'}.")
        content = await given.read()
        if len(content) > MOST_BYTES:
            raise Refusal("bad_request", "File is too large: a batch file can be up to 200 MB.", param="file")
        id_ = f"file-sim{next(self._numbers):08d}"
        self._files[id_] = content
        return {
            "id": id_,
            "object": "file",
            "bytes": len(content),
            "created_at": 0,
            "filename": given.filename,
            "purpose": "batch",
            "status": "processed",
        }

    async def content(self, request: Request, _fault: str) -> bytes:
        kind, _, batch_id = request.path_params["id"].partition("-of-")
        if not batch_id:
            return self._file(request.path_params["id"])
        batch = await self._batches.get(batch_id)
        wanted = [result for result in batch.results or () if _is_output(result) == (kind == "output")]
        return as_json_lines(batch, [_result(batch, result) for result in wanted])

    async def create(self, request: Request, fault: str) -> object:
        body = await read_json_object(request)
        for name in body.keys() - CREATE_FIELDS:
            raise Refusal("unknown_parameter", f"Unknown parameter: '{name}'.", param=name)
        if body.get("endpoint") != ENDPOINT or body.get("completion_window") != "24h":
            raise Refusal("bad_request", "Invalid value: 'endpoint' or 'completion_window'.", param="endpoint")
        file_id = str(body.get("input_file_id"))
        lines, problem = _read_lines(self._file(file_id))
        if fault == "batch_rejected":
            problem = _problem("token_limit_exceeded", "Enqueued token limit reached for this model.")
        batch = self._batches.create(
            lines, fault, problem=problem, metadata=body.get("metadata") or {}, file_id=file_id
        )
        return self._shown(batch)

    async def retrieve(self, request: Request, _fault: str) -> object:
        return self._shown(await self._batches.get(request.path_params["id"]))

    async def cancel(self, request: Request, _fault: str) -> object:
        return self._shown(await self._batches.cancel(request.path_params["id"]))

    async def list(self, request: Request, _fault: str) -> object:
        limit = min(int(request.query_params.get("limit", "20")), MOST_LISTED)
        page, more = page_of(await self._batches.listed(), request.query_params.get("after"), limit)
        ends = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
        return {"object": "list", "data": [self._shown(batch) for batch in page], "has_more": more} | ends

    def _file(self, id_: str) -> bytes:
        if id_ not in self._files:
            raise Refusal("not_found", f"No such File object: {id_}")
        return self._files[id_]

    def _shown(self, batch: Batch) -> dict[str, Any]:
        outputs = [result for result in batch.results or () if _is_output(result)]
        errors = batch.results is not None and len(outputs) < len(batch.results)
        ended = None if batch.ended_at is None else int(batch.ended_at)
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "errors": batch.problem,
            "input_file_id": batch.file_id,
            "completion_window": "24h",
            "status": _status(batch),
            "output_file_id": f"output-of-{batch.id}" if outputs else None,
            "error_file_id": f"errors-of-{batch.id}" if errors else None,
            "created_at": int(batch.created_at),
            "expires_at": int(batch.created_at) + 86_400,
            "completed_at": ended,
            "request_counts": {
                "total": len(batch.lines),
                "completed": batch.count("answered"),
                "failed": batch.count("refused"),
            },
            "metadata": dict(batch.metadata) or None,
        }


def _is_output(result: Result) -> bool:
    """Lines that were not processed, and those that were refused, are in the other file."""
    return result.outcome == "answered"


def _status(batch: Batch) -> str:
    if batch.problem is not None:
        return "failed"
    if batch.results is None:
        return "in_progress"
    if batch.cancelled:
        return "cancelled"
    return "expired" if batch.is_expired else "completed"


def _result(batch: Batch, result: Result) -> dict[str, Any]:
    line = {"id": f"batch_req_{result.line.custom_id}", "custom_id": result.line.custom_id}
    if result.outcome in ("answered", "refused"):
        response = {"status_code": result.status, "request_id": batch.id, "body": result.body}
        return line | {"response": response, "error": None}
    message = f"This request could not be executed before the batch was {result.outcome}."
    return line | {"response": None, "error": {"code": f"batch_{result.outcome}", "message": message}}


def _read_lines(content: bytes) -> tuple[list[Line], dict[str, Any] | None]:
    """The requests of a file, or the problem that makes the vendor refuse it."""
    lines: list[Line] = []
    ids, models = set[str](), set[object]()
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            given = json.loads(text)
        except ValueError:
            return [], _problem("invalid_json_line", "This line is not parseable as valid JSON.", number)
        problem = _line_problem(given)
        if problem:
            return [], _problem(*problem, number)
        if given["custom_id"] in ids:
            message = f"The custom_id '{given['custom_id']}' is used by another line."
            return [], _problem("duplicate_custom_id", message, number)
        ids.add(given["custom_id"])
        models.add(given["body"].get("model"))
        lines.append(Line(given["custom_id"], given["body"]))
    if not lines or len(lines) > MOST_LINES:
        return [], _problem("invalid_request_count", f"A batch has 1 to {MOST_LINES} requests.")
    if len(models) > 1:
        return [], _problem("mismatched_model", "All requests of a batch must be for one model.")
    return lines, None


def _line_problem(given: object) -> tuple[str, str] | None:
    if not isinstance(given, dict) or not isinstance(given.get("custom_id"), str) or not given["custom_id"]:
        return "missing_required_parameter", "Missing required parameter: 'custom_id'."
    if given.get("method") != "POST" or given.get("url") != ENDPOINT:
        return "invalid_url", f"Expected POST {ENDPOINT}."
    if not isinstance(given.get("body"), dict):
        return "missing_required_parameter", "Missing required parameter: 'body'."
    return None


def _problem(code: str, message: str, line: int | None = None) -> dict[str, Any]:
    error: Mapping[str, Any] = {"code": code, "message": message, "param": None, "line": line}
    return {"object": "list", "data": [error]}
