"""Jobs over HTTP: start, follow, read, control, cancel, list."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from decimal import Decimal
from typing import Annotated, Any, get_type_hints
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Query, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, create_model
from starlette.websockets import WebSocketDisconnect

from gateway import sse
from gateway.answers import unless_left
from gateway.auth import JSON, Caller, CurrentCaller, KeyedRoute, requires
from gateway.errors import ClientDisconnected, NotFinished
from gateway.feeds import Event
from gateway.state import Gateway
from gateway.uploads import MULTIPART, bytes_of, checked, import_upload, is_multipart, json_of, parts_of, text_of
from parley.client.auto_analyze import AutoAnalyzeHandle, AutoAnalyzeOptions, AutoAnalyzeReport
from parley.client.client import handle_of
from parley.client.generate import GenerateOptions
from parley.client.generation import GenerationHandle
from parley.client.importing import Imported, ReadingOptions
from parley.client.listing import KINDS, STATUSES, DescribedJob, JobPage, describe_job
from parley.client.reading import (
    MAX_RECORDING_BYTES,
    MAX_TRANSCRIPT_BYTES,
    parse_conversation,
    session_or_transcript,
)
from parley.client.session_analysis import AnalysisHandle, AnalysisReport
from parley.domain.auto_analyze.comparison import RunComparison
from parley.domain.auto_analyze.contract import WORKFLOW as AUTO_ANALYZE
from parley.domain.auto_analyze.contract import AutoAnalyzeProgress, ResumeRun, RunControls, SetStreams
from parley.domain.coaching.rubric import DEFAULT_RUBRIC
from parley.domain.errors import InvalidInput, NotFound
from parley.domain.gateway_keys import Scope
from parley.domain.generate.contract import DEFAULT_ACTION, GenerateResult
from parley.domain.generate.contract import WORKFLOW as GENERATE
from parley.domain.hearing import Transcript
from parley.domain.model import UNSTORABLE, Model
from parley.domain.requests import Provider
from parley.domain.session import Session
from parley.domain.session_analysis import (
    DEFAULT_TRANSCRIPT_TOKENS,
    DEFAULT_VOICE_DEADLINE_SECONDS,
    DEFAULT_WAIT_LIMIT_SECONDS,
    Progress,
)
from parley.domain.session_analysis import WORKFLOW as SESSION_ANALYSIS

PREFIX = "/api/jobs"
UPLOADS = frozenset((f"{PREFIX}/session-analysis", f"{PREFIX}/auto-analyze"))
# The last part of a job's path, so that no id may end with one of them.
PARTS = (
    "progress", "result", "events", "cancel", "labels", "pause", "resume", "finish", "streams", "fork", "comparison"
)  # fmt: skip
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")
MOST_ID_CHARACTERS = 1000
RETRY_SECONDS = 1.0

router = APIRouter(prefix=PREFIX, tags=["jobs"], route_class=KeyedRoute)
sockets = APIRouter(prefix=PREFIX)


class StartedJob(Model):
    """A job that was started, or that ran already. `imported`: the dataset of an upload."""

    id: str
    kind: str
    url: str
    imported: Imported | None = None


class JobView(Model):
    """A job and its state. `status`: `running`, or how it ended."""

    id: str
    kind: str
    status: str
    started_at: AwareDatetime
    ended_at: AwareDatetime | None
    url: str


class GenerationProgress(Model):
    """The progress of a generation: it has no parts that could be counted."""

    status: str


class AnalysisBody(Model):
    """A session analysis. In a multipart body, `session` and `audio` are parts, and the rest is the part `options`.

    session: a session, or a transcript of another service. Without one the recording is heard.
    audio_url: the https URL of the recording, instead of the part `audio`; the gateway fetches it.
    wait: whether there is no result before a provider answers. By default an outage gives a provisional one at once,
    which is amended: an event `progress` with `provisional`, then `end`, or a webhook, say when. The fields after
    `run_name` say how a recording alone, or a transcript, becomes a session.
    """

    session: dict[str, Any] | None = None
    audio_url: str | None = None
    provider: Provider | None = None
    model: str | None = None
    wait: bool = False
    wait_limit_seconds: int = DEFAULT_WAIT_LIMIT_SECONDS
    voice_deadline_seconds: float = DEFAULT_VOICE_DEADLINE_SECONDS
    transcript_tokens: int = DEFAULT_TRANSCRIPT_TOKENS
    run_name: str = ""
    rubric: str | dict[str, Any] = DEFAULT_RUBRIC
    user_id: str | None = None
    session_id: str | None = None
    prospect_id: str | None = None
    scenario: str | None = None
    language: str | None = None
    user_channel: int | None = None
    user_speaker: str | None = None
    user_role: str | None = None


def _options(options: type) -> dict[str, Any]:
    """The fields of a body that are options of a job: what is left out has the default of the job."""
    return {name: (hint | None, None) for name, hint in get_type_hints(options).items()}


GenerationBody: Any = create_model(
    "GenerationBody",
    __base__=Model,
    __doc__="A generation: the arguments of `client.generate`.",
    messages=(str | list[dict[str, Any]], ...),
    user_id=(str, ...),
    action=(str, DEFAULT_ACTION),
    **_options(GenerateOptions),
)
AutoAnalyzeBody: Any = create_model(
    "AutoAnalyzeBody",
    __base__=Model,
    __doc__="A labelling run. In a multipart body, `file` is a part with chat sessions, and the rest is `options`.",
    user_id=(str, ...),
    dataset_id=(str | None, None),
    run_name=(str, ""),
    **_options(ReadingOptions),
    **_options(AutoAnalyzeOptions),
)


class ForkBody(Model):
    """How a labelling run is repeated: on another model, or with other instructions. The rest is as in that run."""

    provider: Provider | None = None
    model: str | None = None
    instructions: str | None = None
    budget_usd: Decimal | None = None
    run_name: str = ""


# What is not an option of the run itself.
IMPORT_FIELDS = {"user_id", "dataset_id", *ReadingOptions.__annotations__}
BODIES = (AnalysisBody, AutoAnalyzeBody)


def _body(model: Any, *files: str) -> dict[str, Any]:
    """A body in the OpenAPI document that is JSON, or multipart with files and the same options."""
    properties = {name: {"type": "string", "format": "binary"} for name in files}
    options = {"options": {"type": "string", "description": f"{model.__name__} as JSON"}}
    form = {"type": "object", "properties": properties | options}
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"required": True, "content": {JSON: {"schema": reference}, MULTIPART: {"schema": form}}}


def start_with_files(model: Any, *files: str) -> dict[str, Any]:
    return {**requires(Scope.JOBS, f"{JSON} or {MULTIPART}"), "requestBody": _body(model, *files)}


IdempotencyKey = Annotated[str | None, Header(description="The same key is the same request, answered and paid once.")]


@router.post("/generate", status_code=202, openapi_extra=requires(Scope.GENERATE))
async def start_generation(
    caller: CurrentCaller,
    body: GenerationBody,  # pyright: ignore[reportInvalidTypeForm] - made from the options of the client
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> StartedJob:
    """Start a generation, and return its id at once."""
    handle = await caller.client.start_generation(key=safe_key(idempotency_key), **given_options(body))
    return _started(response, handle.id, GENERATE)


@router.post("/session-analysis", status_code=202, openapi_extra=start_with_files(AnalysisBody, "session", "audio"))
async def start_analysis(caller: CurrentCaller, request: Request, response: Response) -> StartedJob:
    """Start the analysis of a session, a transcript or a recording, of JSON or of an upload.

    The same content is the same job.
    """
    audio: bytes | None = None
    session: Session | Transcript | None = None
    if is_multipart(request.headers):
        async with parts_of(request) as form:
            given = await _given(form, AnalysisBody)
            text = await text_of(form, "session", MAX_TRANSCRIPT_BYTES)
            session = None if text is None else parse_conversation(text, where="session")
            if form.get("audio") is not None:
                audio = await bytes_of(form["audio"], "audio", MAX_RECORDING_BYTES)
    else:
        given = checked(AnalysisBody, await _json(request), where="body")
    if session is None and given.session is not None:
        session = session_or_transcript(given.session, where="session")
    options = {name: value for name, value in given.model_dump(exclude={"session"}).items() if value is not None}
    handle = await caller.client.analyze(session, audio=audio, **_named(options))
    return _started(response, handle.id, SESSION_ANALYSIS)


@router.post("/auto-analyze", status_code=202, openapi_extra=start_with_files(AutoAnalyzeBody, "file"))
async def start_auto_analyze(caller: CurrentCaller, request: Request, response: Response) -> StartedJob:
    """Import a file of chat sessions and label them, or label a dataset that is imported already."""
    imported = None
    if is_multipart(request.headers):
        async with parts_of(request) as form:
            given = await _given(form, AutoAnalyzeBody)
            options = _auto_options(caller, given)
            how = given.model_dump(include=set(ReadingOptions.__annotations__), exclude_none=True)
            imported = await import_upload(
                caller.client.settings,
                caller.client.workspace_id,
                form.get("file"),
                **how,
            )
        dataset_id = imported.dataset_id
    else:
        given = checked(AutoAnalyzeBody, await _json(request), where="body")
        options, dataset_id = _auto_options(caller, given), given.dataset_id
    if dataset_id is None:
        raise InvalidInput("is missing: name an imported dataset, or upload a `file`", where="dataset_id")
    handle = await caller.client.auto_analyze(dataset_id, user_id=given.user_id, run_name=given.run_name, **options)
    return _started(response, handle.id, AUTO_ANALYZE, imported)


@router.get("", openapi_extra=requires(Scope.READ))
async def list_jobs(
    caller: CurrentCaller,
    kind: Annotated[str | None, Query(description=f"One of {', '.join(KINDS)}.")] = None,
    status: Annotated[str | None, Query(description=f"One of {', '.join(STATUSES)}.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=500, description="`next` of the page before.")] = None,
) -> JobPage:
    """A page of the jobs, the newest first, with status and cost.

    The first page has the generations that run, in addition to `limit`. Inline generations are listed when they end.
    """
    return await caller.client.job_page(kind=kind, status=status, limit=limit, cursor=cursor)


JobId = Annotated[str, Path(description="The id of the job, percent-encoded.")]


@router.get("/{job_id:path}/progress", openapi_extra=requires(Scope.READ))
async def progress(caller: CurrentCaller, job_id: JobId) -> Progress | AutoAnalyzeProgress | GenerationProgress:
    """How far a job is."""
    handle = await _find(caller, job_id)
    if isinstance(handle, GenerationHandle):
        return GenerationProgress(status=await handle.status())
    return await handle.progress()


@router.get("/{job_id:path}/result", openapi_extra=requires(Scope.READ))
async def result(caller: CurrentCaller, job_id: JobId) -> GenerateResult | AnalysisReport | AutoAnalyzeReport:
    """The result of a job that has ended; 409 while it runs, with the time after which to ask again.

    An analysis may have a provisional result while it runs: its `pending` names the steps that will amend it.
    """
    handle = await _find(caller, job_id)
    status = await handle.status() if isinstance(handle, GenerationHandle) else await caller.client.status(job_id)
    if status == "running" and not (isinstance(handle, AnalysisHandle) and await handle.is_provisional()):
        raise NotFinished(f"{job_id} still runs: ask again, or follow its events", retry_after=RETRY_SECONDS)
    if isinstance(handle, GenerationHandle):
        return await handle.result()
    return await handle.report()


@router.get(
    "/{job_id:path}/events",
    openapi_extra=requires(Scope.READ),
    response_class=StreamingResponse,
    responses={200: {"content": {sse.EVENT_STREAM: {}}}},
)
async def events(
    caller: CurrentCaller,
    request: Request,
    job_id: JobId,
    last_event_id: Annotated[str, Header(max_length=100, description="Continue after this event.")] = "",
) -> StreamingResponse:
    """What happens to a job, as server-sent events: `labels`, `progress`, and `end` as the last one."""
    return await event_stream(request.app.state.gateway, caller, job_id, last_event_id)


async def event_stream(gateway: Gateway, caller: Caller, job_id: str, last_event_id: str) -> StreamingResponse:
    """The events of a job after an event, as server-sent events."""
    followed = _followed(gateway, caller, job_id, last_event_id)
    first = await anext(followed, None)  # an error is a status, not an event
    return sse.response(_frames(followed, first))


@router.post("/{job_id:path}/cancel", status_code=202, openapi_extra=requires(Scope.JOBS))
async def cancel(caller: CurrentCaller, job_id: JobId) -> JobView:
    """Request that a job stops. Results that are paid for stay stored."""
    await (await _find(caller, job_id)).cancel()
    return await _view(caller, job_id)


@router.post("/{job_id:path}/pause", openapi_extra=requires(Scope.JOBS))
async def pause(caller: CurrentCaller, job_id: JobId) -> RunControls:
    """Pause a labelling run: requests in flight are finished, and no other one starts."""
    return await (await labelling_run(caller, job_id)).pause()


@router.post("/{job_id:path}/resume", openapi_extra=requires(Scope.JOBS))
async def resume(caller: CurrentCaller, job_id: JobId, body: ResumeRun | None = None) -> RunControls:
    """Resume a labelling run that is paused, or whose budget was used up: with a new budget, if one is given."""
    return await (await labelling_run(caller, job_id)).resume(budget_usd=body.budget_usd if body else None)


@router.post("/{job_id:path}/finish", openapi_extra=requires(Scope.JOBS))
async def finish(caller: CurrentCaller, job_id: JobId) -> RunControls:
    """End a labelling run now: merge the labels that there are, and label no further session."""
    return await (await labelling_run(caller, job_id)).finish()


@router.post("/{job_id:path}/streams", openapi_extra=requires(Scope.JOBS))
async def streams(caller: CurrentCaller, job_id: JobId, body: SetStreams) -> RunControls:
    """Change the number of parallel streams of a labelling run while it runs."""
    return await (await labelling_run(caller, job_id)).set_streams(body.streams)


@router.post("/{job_id:path}/fork", status_code=202, openapi_extra=requires(Scope.JOBS))
async def fork(caller: CurrentCaller, job_id: JobId, body: ForkBody, response: Response) -> StartedJob:
    """Label the sessions of a completed labelling run again, with another model or other instructions."""
    run = await labelling_run(caller, job_id)
    handle = await caller.client.fork_auto_analyze(run.job_key, **_named(body.model_dump()))
    return _started(response, handle.id, AUTO_ANALYZE)


@router.get("/{job_id:path}/comparison", openapi_extra=requires(Scope.READ))
async def comparison(
    caller: CurrentCaller,
    job_id: JobId,
    other: Annotated[str, Query(alias="with", description="The id or key of another run on the same dataset.")],
) -> RunComparison:
    """What differs between two labelling runs on one dataset: cost, labels, agreement."""
    run = await labelling_run(caller, job_id)
    return await caller.client.compare_runs(run.job_key, checked_id(caller, other))


@router.get("/{job_id:path}", openapi_extra=requires(Scope.READ))
async def job(caller: CurrentCaller, job_id: JobId) -> JobView:
    """A job and its state."""
    return await _view(caller, job_id)


@sockets.websocket("/{job_id:path}/events")
async def socket(websocket: WebSocket, job_id: str, last_event_id: str = "") -> None:
    """The events of a job over a WebSocket, as JSON texts. `?last_event_id=` continues after an event."""
    gateway: Gateway = websocket.app.state.gateway
    caller = await gateway.auth.identify(websocket, Scope.READ)
    async with aclosing(_followed(gateway, caller, job_id, last_event_id)) as followed:
        first = await anext(followed, None)
        await websocket.accept()
        try:
            await unless_left(websocket, asyncio.ensure_future(_send_all(websocket, followed, first)))
            await websocket.close(1001 if gateway.draining.is_set() else 1000)
        except (ClientDisconnected, WebSocketDisconnect):
            return


async def _send_all(websocket: WebSocket, followed: AsyncGenerator[Event | None], first: Event | None) -> None:
    await _send(websocket, first)
    async for event in followed:
        await _send(websocket, event)


async def _send(websocket: WebSocket, event: Event | None) -> None:
    sent = {"event": "idle"} if event is None else {"id": event.id, "event": event.kind, "data": event.data}
    await websocket.send_text(json.dumps(sent, separators=(",", ":")))


async def _followed(gateway: Gateway, caller: Caller, job_id: str, last_event_id: str) -> AsyncGenerator[Event | None]:
    """The events of a job, counted as one of the key's open streams. They end when the key is revoked or expires."""
    workspace_id = caller.client.workspace_id
    await _view(caller, job_id)
    async with gateway.stream(caller), aclosing(gateway.feeds.follow(workspace_id, job_id, last_event_id)) as followed:
        async for event in followed:
            if not await gateway.auth.is_admitted(caller):
                return
            yield event


async def _frames(followed: AsyncGenerator[Event | None], first: Event | None) -> AsyncIterator[str]:
    async with aclosing(followed):
        yield f"retry: {RETRY_SECONDS * 1000:.0f}\n\n{_frame(first)}"
        async for event in followed:
            yield _frame(event)


def _frame(event: Event | None) -> str:
    return sse.IDLE if event is None else sse.frame(event.data, event.kind, event.id)


def given_options(body: Any) -> dict[str, Any]:
    """What the caller gave of a body made from options; null means that it was left out."""
    return {name: value for name, value in body.model_dump(exclude_unset=True).items() if value is not None}


def safe_key(key: str | None) -> str | None:
    """An idempotency key, which becomes part of a job's id and so of a path.

    Raises:
        InvalidInput: it has other characters, or is a word of the paths.
    """
    if key is not None and (not KEY.fullmatch(key) or key in PARTS):
        raise InvalidInput(
            f"must be 1 to 200 of A-Z a-z 0-9 . _ : - and begin with a letter or digit, and not be {', '.join(PARTS)}",
            where="Idempotency-Key",
        )
    return key


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """Options whose `run_name`, which is part of the job's id as well, is checked like a key."""
    try:
        safe_key(options["run_name"] or None)
    except InvalidInput as error:
        raise InvalidInput(error.problem, where="run_name") from None
    return options


def _auto_options(caller: Caller, given: Any) -> dict[str, Any]:
    """The options of a labelling run, checked before a file is imported."""
    fields = given.model_dump(exclude_unset=True, exclude=IMPORT_FIELDS)
    _named({"run_name": "", **fields})
    options = {name: value for name, value in fields.items() if value is not None and name != "run_name"}
    caller.client.check_auto_analyze_options(user_id=given.user_id, **options)
    return options


async def _given(form: Any, model: Callable[..., Any]) -> Any:
    text = await text_of(form, "options")
    return checked(model, json_of(text or "{}", where="options"), where="options")  # pyright: ignore[reportArgumentType]


async def _json(request: Request) -> Any:
    try:
        text = (await request.body()).decode()
    except UnicodeDecodeError:
        raise InvalidInput("is not UTF-8", where="body") from None
    return json_of(text, where="body")


def _started(response: Response, job_id: str, kind: str, imported: Imported | None = None) -> StartedJob:
    url = response.headers["location"] = _url(job_id)
    return StartedJob(id=job_id, kind=kind, url=url, imported=imported)


def _url(job_id: str) -> str:
    return f"{PREFIX}/{quote(job_id, safe='')}"


def checked_id(caller: Caller, job_id: str) -> str:
    """An id that the servers can be asked for."""
    if len(job_id) > MOST_ID_CHARACTERS or UNSTORABLE.search(job_id):
        raise NotFound(f"workspace {caller.client.workspace_id!r} has no job of this id")
    return job_id


async def _find(caller: Caller, job_id: str) -> AnalysisHandle | AutoAnalyzeHandle | GenerationHandle:
    found = await _described(caller, job_id)
    if found.kind == GENERATE:
        return caller.client.generation(job_id)
    return handle_of(caller.backend, caller.client.workspace_id, found.kind, found.id, found.job_key)


async def labelling_run(caller: Caller, job_id: str) -> AutoAnalyzeHandle:
    """The labelling run of an id.

    Raises:
        InvalidInput: the job is of another kind.
        NotFound: the workspace has no such job.
    """
    return checked_run(await _find(caller, job_id), job_id)


def checked_run(handle: object, job_id: str) -> AutoAnalyzeHandle:
    """The handle of a job.

    Raises:
        InvalidInput: it is not that of a labelling run.
    """
    if not isinstance(handle, AutoAnalyzeHandle):
        raise InvalidInput("is not a labelling run: only those have labels and can be controlled", where=job_id)
    return handle


async def _view(caller: Caller, job_id: str) -> JobView:
    found = await _described(caller, job_id)
    return JobView(
        id=found.id,
        kind=found.kind,
        status=found.status,
        started_at=found.started_at,
        ended_at=found.ended_at,
        url=_url(found.id),
    )


async def _described(caller: Caller, job_id: str) -> DescribedJob:
    return await describe_job(caller.backend, caller.client.workspace_id, checked_id(caller, job_id))
