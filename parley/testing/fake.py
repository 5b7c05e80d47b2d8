"""`FakeClient`: Parley's jobs in memory, with the answers that a unit test scripts."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack, cast
from uuid import uuid4

from parley.client.auto_analyze import (
    AutoAnalyzeHandle,
    AutoAnalyzeOptions,
    AutoAnalyzeReport,
    auto_analyze_input,
    cheapest_estimate,
)
from parley.client.backend import Backend
from parley.client.conversation import ConversationHandle
from parley.client.generate import GenerateOptions, Messages, generate_input
from parley.client.importing import Imported, ReadingOptions, no_progress, read_chats, read_facts
from parley.client.jobs import JobHandle, ProgressT, ReportT
from parley.client.label_maps import LabelMaps
from parley.client.reading import check_conversation_id
from parley.client.session_analysis import (
    NOTHING_GIVEN,
    TWO_RECORDINGS,
    AnalysisHandle,
    AnalysisReport,
    HearingOptions,
    given_session,
)
from parley.client.streaming import GenerateStream, OnDisconnect
from parley.domain.auto_analyze.contract import (
    AutoAnalyzeInput,
    AutoAnalyzeProgress,
    ExportedSession,
    Phase,
    RunControls,
    Statistics,
)
from parley.domain.auto_analyze.estimate import RunEstimate, even_workload, workload_of
from parley.domain.chat import ChatSession
from parley.domain.chat_formats import ChatFormat, ChatRole
from parley.domain.chat_formats.drafts import DEFAULT_SESSION_GAP_HOURS
from parley.domain.coaching.rubric import DEFAULT_RUBRIC, Rubric, built_in, check_rubric
from parley.domain.coaching.rule_based import rule_based
from parley.domain.costs import Costs
from parley.domain.errors import IdempotencyConflict, InvalidInput, NotFound
from parley.domain.generate.contract import DEFAULT_ACTION, GenerateInput, GenerateResult, Meta, workflow_id
from parley.domain.generate.replies import parsed
from parley.domain.habits import habits
from parley.domain.hearing import Transcript
from parley.domain.model import Model
from parley.domain.requests import Provider
from parley.domain.session import Session
from parley.domain.session_analysis import (
    DEFAULT_TRANSCRIPT_TOKENS,
    DEFAULT_VOICE_DEADLINE_SECONDS,
    DEFAULT_WAIT_LIMIT_SECONDS,
    Analysis,
    Progress,
    Step,
    Strategy,
)
from parley.domain.streaming import StreamTarget
from parley.domain.voice_metrics import from_session
from parley.settings import Settings
from parley.streams.hub import ProcessReceiver, StreamHub
from parley.testing.conversations import FakeConversationHandle, FakeConversations, FakeMemory
from parley.testing.knowledge import FakeKnowledge
from parley.testing.phone import FakePhone

ScriptedT = TypeVar("ScriptedT")


class FakeClient:
    """A client that starts nothing and costs nothing. It checks its arguments as `Client` does.

    Attributes:
        requests: the input of each generation and turn that was requested, in order; of a turn with its context.
        sessions: the sessions that were given to `analyze`.
        runs: the input of each labelling run.
        memory: what is remembered of users; `memory.add` adds a fact.
        phone: phone numbers and phone calls; `phone.add` adds a phone call, `phone.dialled` has those of `dial`.
        knowledge: the documents of the knowledge base, which are found by their words.
    """

    def __init__(
        self,
        workspace_id: str = "default",
        *,
        answers: Iterable[str | dict[str, Any] | GenerateResult | Exception] = (),
        analyses: Iterable[AnalysisReport | Exception] = (),
        labellings: Iterable[AutoAnalyzeReport | Exception] = (),
        exports: Iterable[Sequence[ExportedSession]] = (),
    ) -> None:
        """Script what the jobs return, each list in the order of the requests.

        Args:
            workspace_id: the workspace of the inputs that are recorded.
            answers: a text, a value that follows the response schema, a whole result such as a refusal, or an error.
            analyses: a report or an error of `result()`. When none is left: the rule-based analysis of the session.
            labellings: a report or an error of `result()`. When none is left: a run that found no label.
            exports: the `labelled_sessions` of each labelling run. When none is left: those of its dataset, without
                labels.
        """
        self.workspace_id = workspace_id
        self.requests: list[GenerateInput] = []
        self.sessions: list[Session] = []
        self.runs: list[AutoAnalyzeInput] = []
        self._answers, self._analyses, self._labellings = deque(answers), deque(analyses), deque(labellings)
        self._exports = deque(exports)
        self._datasets: dict[str, list[ChatSession]] = {}
        self._exported: dict[str, Sequence[ExportedSession]] = {}
        self.memory = FakeMemory()
        self.phone, self.knowledge = FakePhone(workspace_id), FakeKnowledge()
        self._conversations = FakeConversations(workspace_id, self._answer, self.memory)
        self._by_key: dict[str, tuple[GenerateInput, GenerateResult]] = {}

    async def generate(
        self,
        messages: Messages,
        *,
        user_id: str,
        action: str = DEFAULT_ACTION,
        key: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerateResult:
        """The next scripted answer; for a key that was used before, the answer that it had.

        Raises:
            AssertionError: no answer is scripted for this request.
            IdempotencyConflict: `key` was used for a different request.
            InvalidInput: an argument is not valid; the error names the field.
        """
        request = generate_input(self.workspace_id, messages, user_id=user_id, action=action, **options)
        asked, answered = self._by_key.get(key or "", (None, None))
        if asked is not None and asked != request:
            raise IdempotencyConflict(f"{key} was already used for a different request: use another key")
        if answered is not None:
            return answered
        result = await self._answer(request)
        if key is not None and result.success:
            self._by_key[key] = request, result
        return result

    async def _answer(self, request: GenerateInput) -> GenerateResult:
        """Record a request, and take the next scripted answer."""
        self.requests.append(request)
        if not self._answers:
            said = request.prompt.messages[-1].text
            raise AssertionError(f"no answer is scripted for request {len(self.requests)}: {said!r}")
        return _result(_scripted(self._answers), request)

    def conversation(self, conversation_id: str, *, user_id: str) -> ConversationHandle:
        """The handle of a conversation in memory, whose turns have the next scripted answers.

        Raises:
            InvalidInput: the id is not valid.
        """
        check_conversation_id(conversation_id)
        return FakeConversationHandle(self._conversations, conversation_id, user_id)

    async def find_conversation(self, conversation_id: str) -> ConversationHandle:
        """The handle of a conversation that had a turn.

        Raises:
            InvalidInput: the id is not one of a conversation.
            NotFound: there is no such conversation.
        """
        check_conversation_id(conversation_id)
        return self.conversation(conversation_id, user_id=self._conversations.find(conversation_id).user_id)

    def generate_stream(
        self,
        messages: Messages,
        *,
        user_id: str,
        action: str = DEFAULT_ACTION,
        key: str | None = None,
        on_disconnect: OnDisconnect = "finish",
        **options: Unpack[GenerateOptions],
    ) -> GenerateStream:
        """The next scripted answer, as one delta; see `generate`.

        Raises:
            InvalidInput: an argument is not valid; the error names the field.
        """
        generate_input(self.workspace_id, messages, user_id=user_id, action=action, **options)

        async def run(_: StreamTarget) -> GenerateResult:
            return await self.generate(messages, user_id=user_id, action=action, key=key, **options)

        stream_id = workflow_id(self.workspace_id, key or uuid4().hex)
        return GenerateStream(
            ProcessReceiver(StreamHub()), self.workspace_id, stream_id, run, on_disconnect=on_disconnect
        )

    async def analyze(  # noqa: PLR0913 - the signature of `Client`
        self,
        session: Session | Transcript | dict[str, object] | None = None,
        *,
        audio: bytes | None = None,
        audio_url: str | None = None,
        provider: Provider | None = None,  # noqa: ARG002 - the signature of `Client`
        model: str | None = None,  # noqa: ARG002
        wait: bool = False,  # noqa: ARG002
        wait_limit_seconds: int = DEFAULT_WAIT_LIMIT_SECONDS,  # noqa: ARG002
        voice_deadline_seconds: float = DEFAULT_VOICE_DEADLINE_SECONDS,  # noqa: ARG002
        transcript_tokens: int = DEFAULT_TRANSCRIPT_TOKENS,  # noqa: ARG002
        run_name: str = "",
        rubric: str | Rubric | dict[str, object] = DEFAULT_RUBRIC,
        **heard: Unpack[HearingOptions],
    ) -> AnalysisHandle:
        """The handle of an analysis that has ended. A recording alone is not heard: its result must be scripted.

        Nothing is fetched from `audio_url`.

        Raises:
            InvalidInput: the session or rubric is not valid; the error names the field.
        """
        own = _rubric(rubric)
        if audio is not None and audio_url is not None:
            raise InvalidInput(TWO_RECORDINGS, where="audio_url")
        checked = given_session(session, heard, None)
        if checked is None and audio is None and audio_url is None:
            raise InvalidInput(NOTHING_GIVEN, where="session")
        if checked is None:
            if not self._analyses:
                raise AssertionError("no analysis is scripted for a recording alone: a FakeClient hears nothing")
            name = heard.get("session_id") or "recording"
            return FakeAnalysisHandle(f"session-analysis/{self.workspace_id}/{name}", self._analyses.popleft())
        self.sessions.append(checked)
        job_id = "/".join(filter(None, ("session-analysis", self.workspace_id, checked.session_id, run_name)))
        outcome = self._analyses.popleft() if self._analyses else _rule_based(checked, own, job_id)
        return FakeAnalysisHandle(job_id, outcome)

    async def auto_analyze(
        self, dataset_id: str, *, user_id: str, run_name: str = "", **options: Unpack[AutoAnalyzeOptions]
    ) -> AutoAnalyzeHandle:
        """The handle of a labelling run that has ended.

        Raises:
            InvalidInput: an option is not valid; the error names the field.
            UnpricedModel: no price is known for `model`.
        """
        job = auto_analyze_input(Settings(), self.workspace_id, dataset_id, user_id=user_id, **options)
        self.runs.append(job)
        job_id = "/".join(filter(None, ("auto-analyze", self.workspace_id, dataset_id[:12], run_name)))
        outcome = self._labellings.popleft() if self._labellings else _no_labels(dataset_id, job_id)
        handle = FakeAutoAnalyzeHandle(job_id, outcome)
        unlabelled = [_unlabelled(session) for session in self._datasets.get(dataset_id, ())]
        exported = self._exports.popleft() if self._exports else unlabelled
        self._exported |= dict.fromkeys((job_id, handle.job_key), exported)
        return handle

    async def import_chats(
        self,
        path: str | Path,
        *,
        format: ChatFormat | None = None,
        roles: Mapping[str, ChatRole] | None = None,
        session_gap_hours: float = DEFAULT_SESSION_GAP_HOURS,
        skip_invalid: bool = False,
        on_progress: Callable[[int], None] = no_progress,
    ) -> Imported:
        """Read chat sessions as `Client` does, and keep them in memory.

        Raises:
            InvalidInput: a line is not valid; the error names file, line and field.
        """
        found, sessions = await read_chats(
            Path(path), format=format, roles=roles, session_gap_hours=session_gap_hours, skip_invalid=skip_invalid
        )
        on_progress(len(sessions))
        known = found.dataset_id in self._datasets
        self._datasets[found.dataset_id] = sessions
        return found.model_copy(update={"known": known})

    def check_auto_analyze_options(self, *, user_id: str, **options: Unpack[AutoAnalyzeOptions]) -> None:
        """Check the options of `auto_analyze` before there is a dataset.

        Raises:
            InvalidInput: an option is not valid; the error names the field.
            UnpricedModel: no price is known for `model`.
        """
        auto_analyze_input(Settings(), self.workspace_id, "", user_id=user_id, **options)

    async def estimate_auto_analyze(
        self,
        source: Imported | Path,
        reading: ReadingOptions | None = None,
        *,
        user_id: str,
        **options: Unpack[AutoAnalyzeOptions],
    ) -> RunEstimate | None:
        """The estimate of `Client` in a workspace without replies: minutes are None.

        Every session is new, also with `since_analysis`: there are no earlier runs.

        Raises:
            InvalidInput: an option or a line of the file is not valid; the error names the field.
            UnpricedModel: no price is known for `model`.
        """
        dataset_id = "" if isinstance(source, Path) else source.dataset_id
        job = auto_analyze_input(Settings(), self.workspace_id, dataset_id, user_id=user_id, **options)
        labels = options.get("labels")
        given_labels = len(labels.labels) if labels else 0
        if isinstance(source, Path):
            work = workload_of(await read_facts(source, **(reading or {})), job, given_labels)
        else:
            sessions = self._datasets.get(dataset_id, [])
            copies = len(sessions) - len({session.transcript_hash for session in sessions})
            work = even_workload(source.sessions, source.tokens, copies, job, given_labels)
        return await cheapest_estimate(Settings(), job, work, _no_replies)

    async def labelled_sessions(self, job_id: str) -> AsyncIterator[ExportedSession]:
        """The scripted sessions of a labelling run, or else those of its dataset, without labels.

        Raises:
            NotFound: no such run was started.
        """
        if job_id not in self._exported:
            raise NotFound(f"there is no job {job_id!r} in workspace {self.workspace_id}")
        for session in self._exported[job_id]:
            await asyncio.sleep(0)
            yield session


class _NoBackend:
    """In place of a backend: whatever needs one cannot be tried without servers."""

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(
            "a FakeClient stores nothing that this needs: test it on the stack, with the fixture parley_client"
        )


class _EndedJob(JobHandle[ProgressT, ReportT]):
    """A scripted job that has ended. `cancelled`: whether `cancel` was called."""

    def __init__(self, job_id: str, outcome: ReportT | Exception) -> None:
        super().__init__(cast("Backend", _NoBackend()), "", job_id, uuid4().hex)
        self._outcome, self.cancelled = outcome, False

    async def report(self) -> ReportT:
        """The scripted report.

        Raises:
            Exception: the scripted error.
        """
        return _given(self._outcome)

    async def result(self) -> ReportT:
        """As `report`: the job has ended."""
        return await self.report()

    async def cancel(self) -> None:
        """Record the request."""
        self.cancelled = True


class FakeAnalysisHandle(_EndedJob[Progress, AnalysisReport], AnalysisHandle):
    """A scripted analysis that has ended."""

    async def progress(self) -> Progress:
        """Every step is done."""
        return Progress(phase=Step.FINISH, done=tuple(Step))

    async def result(self, *, final: bool = False) -> AnalysisReport:  # noqa: ARG002 - the signature of `AnalysisHandle`
        """As `report`: the job has ended."""
        return await self.report()

    async def is_provisional(self) -> bool:
        """Whether the scripted report is of a provisional result."""
        analysis = (await self.report()).analysis
        return analysis is not None and bool(analysis.pending)


class FakeAutoAnalyzeHandle(_EndedJob[AutoAnalyzeProgress, AutoAnalyzeReport], AutoAnalyzeHandle):
    """A scripted labelling run that has ended: it cannot be paused or changed. What is read of it is its report."""

    @property
    def labels(self) -> LabelMaps:
        """Its labels, which wait for no review. They are not stored: the others of its methods need the stack."""
        return _EndedLabels(self._backend, self._workspace_id, self.id, self.job_key)

    async def progress(self) -> AutoAnalyzeProgress:
        """The last phase."""
        return AutoAnalyzeProgress(phase=Phase.FINISH)

    async def _control(self, update: str, given: Model) -> RunControls:
        del update, given
        raise NotFound(f"{self.id} does not run: its results stay stored")


class _EndedLabels(LabelMaps):
    async def is_in_review(self) -> bool:
        return False


async def _no_replies(provider: Provider, model: str) -> float | None:
    del provider, model


def _unlabelled(session: ChatSession) -> ExportedSession:
    nothing = dict.fromkeys(ExportedSession.model_fields)
    own = {"session_id": session.session_id, "user_id": session.user_id, "containment": session.containment}
    return ExportedSession.model_validate({**nothing, **own, "fallback": False, "by_rule": False})


def _scripted(script: deque[ScriptedT | Exception]) -> ScriptedT:
    return _given(script.popleft())


def _given(outcome: ScriptedT | Exception) -> ScriptedT:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _result(answer: str | dict[str, Any] | GenerateResult, request: GenerateInput) -> GenerateResult:
    """The result of an answered request: the text is parsed as a provider's reply is."""
    if isinstance(answer, GenerateResult):
        return answer
    text = answer if isinstance(answer, str) else json.dumps(answer)
    schema = request.prompt.reply_schema
    value, problem = parsed(text, schema) if schema is not None else (None, "")
    if problem:
        raise AssertionError(f"the scripted answer does not follow the response schema: {problem}")
    meta = Meta(request_id=f"fake/{uuid4().hex}", provider=request.provider, model=request.model or "fake")
    return GenerateResult(success=True, content=text, parsed=value, meta=meta)


def _rubric(given: str | Rubric | dict[str, object]) -> Rubric:
    if isinstance(given, str):
        found = built_in(given)
        if found is None:
            raise InvalidInput(f"there is no rubric {given!r}: the fake client stores none", field="rubric")
        return found
    return given if isinstance(given, Rubric) else check_rubric(given)


def _rule_based(session: Session, rubric: Rubric, job_id: str) -> AnalysisReport:
    """What Parley stores when no provider is available."""
    counted = habits(session)
    analysis = Analysis(
        session_id=session.session_id,
        user_id=session.user_id,
        strategy=Strategy.HYBRID,
        strategy_reason="rule-based, by the fake client",
        voice_metrics=from_session(session),
        habits=counted,
        coaching=rule_based(session, counted, rubric),
        provenance=(),
    )
    return AnalysisReport(
        id=job_id,
        job_key=uuid4().hex,
        status="completed",
        session_id=session.session_id,
        user_id=session.user_id,
        analysis=analysis,
        costs=Costs(lines=()),
    )


def _no_labels(dataset_id: str, job_id: str) -> AutoAnalyzeReport:
    return AutoAnalyzeReport(
        id=job_id,
        job_key=uuid4().hex,
        status="completed",
        dataset_id=dataset_id,
        statistics=Statistics(),
        labels=(),
        costs=Costs(lines=()),
    )
