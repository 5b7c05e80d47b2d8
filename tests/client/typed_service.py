"""A sample service that uses the whole public API with its types written out. test_typed_service.py type-checks it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from temporalio import workflow

from parley import (
    GENERATE_WORKFLOW,
    WORKFLOW_TASK_QUEUE,
    ActionSpend,
    ActionTokens,
    AddedDocument,
    AddOutcome,
    Analysis,
    AnalysisHandle,
    AnalysisReport,
    AnswerTemplate,
    AttemptReport,
    AutoAnalyzeHandle,
    AutoAnalyzeInput,
    AutoAnalyzeOptions,
    AutoAnalyzeProgress,
    AutoAnalyzeReport,
    Backend,
    BatchFigures,
    BilledAttempt,
    Cached,
    CachePolicy,
    CallStatus,
    CanonicalLabel,
    CapView,
    ChatFormat,
    ChatRole,
    ChatSession,
    Client,
    ConfigurationReport,
    Consistency,
    ConversationBusy,
    ConversationClosed,
    ConversationCost,
    ConversationExport,
    ConversationHandle,
    ConversationState,
    Correction,
    CostAlertReport,
    CostLine,
    Costs,
    DaySpend,
    Deadlines,
    DifferingSession,
    Digits,
    Disagreement,
    DiscoveryTerms,
    DocumentKind,
    EarlierRun,
    Ended,
    EnergyBalance,
    ErrorKind,
    EventReport,
    Experiments,
    ExportedSession,
    Feedback,
    Finish,
    Flow,
    GatewayKey,
    GatewayKeys,
    GenerateInput,
    GenerateOptions,
    GenerateResult,
    GenerateStream,
    GenerationHandle,
    GenerationReport,
    GivenLabel,
    HealthReport,
    HearingOptions,
    Housekeeping,
    IdempotencyConflict,
    ImagePart,
    Imported,
    InvalidInput,
    JobAttempts,
    JobFailed,
    JobPage,
    JobSummary,
    KeyAction,
    KindDrift,
    Knowledge,
    KnowledgeDocument,
    KnowledgePassage,
    KnowledgeUsed,
    LabelChange,
    LabelCount,
    LabelDrift,
    LabelKind,
    LabelledChat,
    LabelMaps,
    LabelMapVersion,
    LabelMapView,
    LabelOrigin,
    LabelPair,
    LabelsChanged,
    LabelTrend,
    ListedConversation,
    MapAction,
    Memory,
    MemoryChanged,
    MergedBy,
    MergedLabel,
    MergeStep,
    Message,
    Messages,
    Meta,
    Mode,
    ModelReport,
    NamedTool,
    NewGatewayKey,
    NewLabels,
    NotFound,
    NumberSettings,
    OnRateLimit,
    Optimized,
    PairOfLabels,
    ParleyError,
    Period,
    PhaseCost,
    Phone,
    PhoneCallReport,
    PhoneLimits,
    PhoneNumber,
    PhoneTurn,
    Phrases,
    Progress,
    Prompt,
    Provider,
    QuotedSession,
    ReadingOptions,
    Recommendation,
    RecordingPart,
    RefillReport,
    Refusal,
    Refused,
    Report,
    Reports,
    Rubric,
    RubricSkill,
    RunComparison,
    RunControls,
    RunEstimate,
    RunOverview,
    RunSide,
    Scope,
    Session,
    SessionAnalysisInput,
    SessionAnalysisResult,
    Settings,
    Skipped,
    SpendReport,
    SpokenLanguage,
    Statistics,
    Strategy,
    StreamReceiver,
    StreamTarget,
    Summary,
    Taxonomy,
    TextDelta,
    TextPart,
    TimeSeries,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Transcript,
    Turn,
    TurnOptions,
    TurnReport,
    TurnResult,
    UnpricedModel,
    Unreachable,
    Usage,
    UserMemory,
    UserReport,
    WeekSpend,
    Word,
    WorkspaceConfiguration,
    read_labels,
)


async def serve(workspaces: list[str]) -> None:
    """One process, many workspaces."""
    settings: Settings = Settings()
    backend: Backend
    async with await Backend.connect(settings=settings, temporal_address="127.0.0.1:7233") as backend:
        for workspace_id in workspaces:
            client: Client = backend.client(workspace_id)
            await work(client)
            await client.close()


async def share(client: Client) -> None:
    """A backend of connections that are open already."""
    backend: Backend = Backend(client.temporal, client.database, client.settings)
    await backend.close()


async def serve_one(workspace_id: str) -> None:
    """The short form for one workspace."""
    client: Client
    async with await Client.connect(workspace_id=workspace_id, settings=None, temporal_address=None) as client:
        await work(client)


async def work(client: Client) -> None:
    print(await answer(client, "Which plan has SSO?"))
    print(await book(client, "https://example.com/terrace.jpg"))
    await answer_later(client)
    await manage_keys(client.gateway_keys)
    await coach(client, recording=None)
    await label(client, Path("chats.jsonl"))
    await configure(client.configuration)
    await report(client.reports)
    await look_after(client, client.housekeeping)
    await account(client)


async def answer(client: Client, question: str) -> str | None:
    messages: Messages = [Message(role="system", content="Be brief."), {"role": "user", "content": question}]
    options: GenerateOptions = {
        "provider": Provider.OPENAI,
        "model": "gpt-4o-mini",
        "max_tokens": 200,
        "temperature": 0.2,
        "top_p": None,
        "stop": ["END"],
        "seed": 7,
        "tools": [],
        "tool_choice": None,
        "parallel_tool_calls": None,
        "json_object": False,
        "response_schema": None,
        "schema_name": None,
        "template": None,
        "experiment": None,
        "cache": CachePolicy.EXACT,
        "on_rate_limit": OnRateLimit.WAIT,
        "wait_limit_seconds": 60,
        "max_cost_usd": Decimal("0.01"),
        "prospect_id": None,
    }
    try:
        result: GenerateResult = await client.generate(
            messages, user_id="ann", action="ai_message", key="question-1", **options
        )
    except (IdempotencyConflict, UnpricedModel) as error:
        return error.code
    except JobFailed as error:
        reason: str = error.reason
        kind: ErrorKind = error.kind
        return f"{kind.value}: {reason}"
    refusal: Refusal | None = result.refusal
    if refusal is not None:
        code: Refused = refusal.code
        return f"{code.value}: {refusal.message}"
    meta: Meta = result.meta
    usage: Usage = meta.usage
    finish: Finish | None = meta.finish
    cached: Cached = meta.cached
    cost_usd: Decimal = meta.cost_usd
    print(usage.output_tokens, finish, cached, cost_usd)
    await client.feedback(meta.request_id, Feedback.GOOD)
    return result.content


async def book(client: Client, picture: str) -> str | None:
    """Let the model call one tool, and answer from its result."""
    tool: Tool = Tool(name="find_table", description="Finds a table.", strict=True)
    choice: ToolChoice = NamedTool(name=tool.name)
    parts = (TextPart(text="A table as in this picture, please."), ImagePart(url=picture))
    messages: list[Message] = [Message(role="user", content=parts)]
    result: GenerateResult = await client.generate(messages, user_id="ann", tools=[tool], tool_choice=choice)
    calls: tuple[ToolCall, ...] = result.tool_calls
    messages.append(Message(role="assistant", content=result.content, tool_calls=calls))
    messages += [Message(role="tool", content=f"{call.name}: table 6", tool_call_id=call.id) for call in calls]
    return (await client.generate(messages, user_id="ann", tools=[tool])).content


async def answer_later(client: Client) -> None:
    handle: GenerationHandle = await client.start_generation("Hi", user_id="ann", key="question-2")
    same: GenerationHandle = client.generation(handle.id)
    result: GenerateResult = await same.result()
    status: str = await same.status()
    messages: tuple[Message, ...] = await same.messages()
    shorter: Optimized = await client.optimize(messages, user_id="ann", budget_tokens=2000)
    page: JobPage = await client.job_page(kind="Generate", status=None, limit=10, cursor=None)
    jobs: tuple[JobSummary, ...] = page.jobs
    print(result.content, status, shorter.tokens_saved, len(jobs), page.next)
    ended: GenerationReport = await same.report()
    print(ended.outcome, ended.answer, ended.cost_usd)
    await same.cancel()


async def manage_keys(keys: GatewayKeys) -> None:
    made: NewGatewayKey = await keys.create(
        "app",
        scopes=[Scope.READ],
        expires_in=timedelta(days=90),
        requests_per_minute=60,
        concurrent_streams=5,
        mode=Mode.INLINE,
    )
    found: list[GatewayKey] = await keys.list()
    print(made.secret, len(found))
    await keys.revoke(made.key_id)


async def coach(client: Client, recording: bytes | None) -> None:
    word: Word = Word(text="Hello", start=0.0, end=0.4)
    turn: Turn = Turn(role="rep", start=0.0, end=0.4, text="Hello", words=(word,))
    session: Session = Session(session_id="s-1", user_id="ann", language="en", duration_seconds=9, turns=(turn,))
    handle: AnalysisHandle = await client.analyze(
        session,
        audio=recording,
        provider=Provider.ANTHROPIC,
        model=None,
        wait=True,
        wait_limit_seconds=3600,
        voice_deadline_seconds=5.0,
        transcript_tokens=2000,
        run_name="morning",
    )
    stored: Session = await handle.session()
    part: RecordingPart = await handle.recording(start=0, count=1000)
    print(stored.session_id, part.size)
    levels = {0: "asks nothing", 100: "asks and listens"}
    skill: RubricSkill = RubricSkill(id="questions", title="Asking", weight=1, levels=levels)
    rubric: Rubric = Rubric(id="own", version=1, title="Our demo", skill=(skill,))
    listed: list[Rubric] = await client.rubrics()
    print(len(listed))
    named: HearingOptions = {"user_id": "ann", "user_channel": 1}
    await client.analyze(audio=recording, rubric=rubric, **named)
    await client.analyze(audio_url="https://recordings.example/call.wav", user_id="ann")
    said: Transcript = Transcript(passages=(), language="en")
    await client.analyze(said, user_speaker="Ann")
    progress: Progress = await handle.progress()
    strategy: Strategy | None = progress.strategy
    provisional: bool = await handle.is_provisional()
    done: AnalysisReport = await handle.result(final=provisional)
    again: AnalysisReport = await handle.report()
    analysis: Analysis | None = done.analysis
    print(strategy, again.status, analysis and analysis.coaching.overall_score, handle.id, handle.job_key)
    await handle.cancel()


async def label(client: Client, path: Path) -> None:
    client.check_auto_analyze_options(user_id="ann", streams=4)
    names: dict[str, ChatRole] = {"Support": "agent"}
    form: ChatFormat = "whatsapp"
    imported: Imported = await client.import_chats(
        path, format=form, roles=names, session_gap_hours=12, skip_invalid=True, on_progress=print
    )
    estimate: RunEstimate | None = await client.estimate_auto_analyze(imported, user_id="ann", streams=4)
    jobs: list[JobSummary] = await client.jobs(kind="AutoAnalyze", status="running", limit=5)
    print(estimate, jobs)
    reading: ReadingOptions = {"skip_invalid": True}
    planned: RunEstimate | None = await client.estimate_auto_analyze(path, reading, user_id="ann")
    print(planned)
    skipped: tuple[Skipped, ...] = imported.skipped
    options: AutoAnalyzeOptions = {
        "provider": Provider.OPENAI,
        "model": "gpt-4o-mini",
        "streams": 4,
        "sessions_per_stream": None,
        "max_staleness": 2,
        "discovery": DiscoveryTerms(min_sessions=10, max_sessions=20),
        "seed": 7,
        "budget_usd": Decimal("2.50"),
        "wait_limit_seconds": 3600,
        "reassign": True,
        "review": True,
        "review_limit_seconds": 3600,
        "probes": 10,
        "labels": Taxonomy(labels=(GivenLabel(label="refund", definition="Money back", examples=("a",)),), closed=True),
        "processing": "batch",
        "debug": False,
    }
    new_ones: AutoAnalyzeOptions = {"since_analysis": "auto-analyze/acme/1"}
    given: Taxonomy = read_labels(path, closed=False)
    print([label.kind for label in given.labels], new_ones)
    handle: AutoAnalyzeHandle = await client.auto_analyze(
        imported.dataset_id, user_id="ann", run_name="nightly", **options
    )
    progress: AutoAnalyzeProgress = await handle.progress()
    print(len(skipped), progress.sessions_done, await client.status(handle.id))
    paused: RunControls = await handle.pause()
    resumed: RunControls = await handle.resume(budget_usd=Decimal(5))
    faster: RunControls = await handle.set_streams(16)
    finishing: RunControls = await handle.finish()
    maps: LabelMaps = handle.labels
    view: LabelMapView = await maps.show(LabelKind.INTENT)
    canonical: tuple[CanonicalLabel, ...] = view.labels
    merged_labels: tuple[MergedLabel, ...] = canonical[0].merged
    pairs = [LabelPair(label=one.label, into=canonical[0].label) for one in merged_labels]
    approved: RunControls = await handle.approve(rejected=pairs, version=view.version, made_by="ann")
    try:
        version: LabelMapVersion = await maps.merge("refund", "billing", version=view.version, reason="one team")
    except LabelsChanged as error:
        print(error.kind)
    version = await maps.split("billing", ["refund"], kind=LabelKind.INTENT)
    version = await maps.rename("billing", "bills", made_by="ann")
    version = await maps.undo(version=version.version)
    actions: list[MapAction] = [one.action for one in await maps.history()]
    makers: list[MergedBy] = [one.merged_by for one in merged_labels]
    print(approved.held, version.version, actions, makers)
    print(paused.held, resumed.budget_usd, faster.streams, finishing.finishing)
    done: AutoAnalyzeReport = await handle.result()
    again: AutoAnalyzeReport = await handle.report()
    statistics: Statistics | None = again.statistics
    labels: tuple[LabelCount, ...] = done.labels
    print(statistics and statistics.labelled, [one.label for one in labels])
    tried: JobAttempts = await client.attempts(handle.job_key, limit=20)
    attempts: tuple[AttemptReport, ...] = tried.attempts
    examples: list[LabelledChat] = await handle.examples(LabelKind.INTENT, "billing", after=-1, limit=5)
    origins: list[LabelOrigin] = await handle.origins(LabelKind.INTENT, "billing")
    merges: list[MergeStep] = [step for origin in origins for step in origin.merges]
    print(tried.total, len(attempts), [chat.session for chat in examples], [step.into for step in merges])
    run: RunOverview = await handle.overview()
    flows: tuple[Flow, ...] = run.flows
    new: tuple[NewLabels, ...] = run.new_labels
    phases: tuple[PhaseCost, ...] = run.phases
    consistency: Consistency = run.consistency
    earlier: EarlierRun | None = run.since
    against: RunComparison | None = run.compared
    print(against.same_label if against else "not a fork")
    print(len(flows), len(new), len(phases), consistency.agreement, earlier)
    drift: LabelDrift = await client.label_drift(handle.id, handle.job_key)
    kinds: tuple[KindDrift, ...] = drift.kinds
    changes: list[LabelChange] = [change for kind in kinds for change in kind.of(LabelTrend.NEW, LabelTrend.GREW)]
    again_with: AutoAnalyzeHandle = await client.fork_auto_analyze(
        handle.id,
        provider=Provider.OPENAI,
        model="gpt-4o",
        instructions="Two words.",
        budget_usd=Decimal(2),
        run_name="larger",
    )
    compared: RunComparison = await client.compare_runs(handle.job_key, again_with.job_key, examples=3)
    side: RunSide = compared.second
    moved: tuple[PairOfLabels, ...] = compared.moved
    differing: tuple[DifferingSession, ...] = compared.examples
    print(changes, side.cost_usd, [pair.sessions for pair in moved], [one.said for one in differing])
    in_batches: BatchFigures | None = statistics.batch if statistics else None
    print(in_batches.saved_usd if in_batches else "one by one")
    quoted: AsyncIterator[QuotedSession] = handle.quoted_sessions()
    async for quote in quoted:
        print(quote.quote)
    sessions: AsyncIterator[ExportedSession] = client.labelled_sessions(handle.id)
    async for session in sessions:
        print(session.session_id)
    await handle.cancel()
    found: AnalysisHandle | AutoAnalyzeHandle = await client.job(handle.id)
    print((await client.workflow(found.id, found.job_key)).id)


async def configure(configuration: WorkspaceConfiguration) -> None:
    await configuration.set("company", {"industry": "dental care"}, user_id=None, where="company.json")
    shown: ConfigurationReport = await configuration.show("ann")
    sections: int = await configuration.refresh("ann")
    print(shown.defaults, shown.warnings, sections)


async def report(reports: Reports) -> None:
    since: datetime = datetime.now(UTC) - timedelta(days=7)
    summary: Summary = await reports.summary(since)
    days: SpendReport[DaySpend] = await reports.daily(since)
    weeks: SpendReport[WeekSpend] = await reports.weekly(since)
    hours: TimeSeries = await reports.over_time(since, None, step=timedelta(hours=1))
    users: UserReport = await reports.users(since, limit=5)
    actions: SpendReport[ActionSpend] = await reports.actions(since)
    tokens: Report[ActionTokens] = await reports.tokens(since)
    models: ModelReport = await reports.models(since)
    experiments: Experiments = await reports.experiments(since)
    recommendations: Report[Recommendation] = await reports.recommendations(since)
    print(hours.lines, summary.total, days.lines, weeks.lines, users.lines, actions.lines, tokens.lines)
    print(models.lines, experiments.lines, [line.advice for line in recommendations.lines])


async def look_after(client: Client, housekeeping: Housekeeping) -> None:
    health: HealthReport = await client.health()
    events: list[EventReport] = await housekeeping.events(undelivered=True, limit=10)
    alerts: list[CostAlertReport] = await housekeeping.alerts()
    refill: RefillReport = await housekeeping.refill_energy()
    print(health.is_well, [alert.spent_usd for alert in alerts], refill.users)
    try:
        for event in events:
            await housekeeping.retry_event(event.id)
    except NotFound as error:
        print(error)


async def account(client: Client) -> None:
    granted: bool = await client.grant_energy("ann", 50, key="welcome")
    await client.set_tier("ann", "premium")
    balance: EnergyBalance = await client.energy("ann")
    await client.set_cap(Period.DAY, Decimal("12.50"))
    caps: list[CapView] = await client.caps()
    costs: Costs = await client.costs(user_id="ann", since=None)
    lines: tuple[CostLine, ...] = costs.lines
    listed: list[BilledAttempt] = [BilledAttempt(source="line 2", attempt_id=UUID(int=1), cost_usd=Decimal("0.01"))]
    disagreements: list[Disagreement] = await client.audit(listed)
    corrections: list[Correction] = await client.reconcile(listed, complete_until=None, dry_run=True)
    print(client.workspace_id, granted, balance.available, [cap.left_usd for cap in caps], len(lines), disagreements)
    print([one.cost_usd for one in corrections])


def exit_code(error: ParleyError) -> int:
    """A service's own use of error kinds."""
    if isinstance(error, InvalidInput):
        print(error.where, error.field, error.problem)
    if isinstance(error, Unreachable) or error.kind is ErrorKind.UNAVAILABLE:
        return 75
    return 2 if error.kind in (ErrorKind.INPUT, ErrorKind.NOT_FOUND) else 1


@workflow.defn
class SupportReply:
    """A service's own workflow that runs Generate as a child."""

    @workflow.run
    async def run(self, question: str) -> str | None:
        prompt: Prompt = Prompt(messages=(Message(role="user", content=question),))
        request: GenerateInput = GenerateInput(workspace_id="acme", user_id="ann", prompt=prompt)
        result: GenerateResult = await workflow.execute_child_workflow(
            GENERATE_WORKFLOW, request, task_queue=WORKFLOW_TASK_QUEUE, result_type=GenerateResult
        )
        return result.content


def inputs_by_name(session: ChatSession) -> tuple[SessionAnalysisInput, AutoAnalyzeInput]:
    """What a caller without the client sends: the inputs of the workflows, by their contract types."""
    analysis = SessionAnalysisInput(workspace_id="acme", user_id="ann", session_id="s-1", session_sha256="0" * 64)
    labelling = AutoAnalyzeInput(workspace_id="acme", user_id=session.user_id, dataset_id="d-1")
    return analysis, labelling


def score_of(result: SessionAnalysisResult) -> int | None:
    return result.overall_score


async def read_while_it_is_made(client: Client) -> GenerateResult:
    """A streamed answer."""
    stream: GenerateStream
    async with client.generate_stream("Hello", user_id="ann", key="order-7", on_disconnect="cancel") as stream:
        async for delta in stream:
            piece: TextDelta | ToolCallDelta = delta
            print(piece.text if isinstance(piece, TextDelta) else piece.arguments)
        return await stream.result()


async def talk(client: Client) -> None:
    """A conversation that remembers."""
    handle: ConversationHandle = client.conversation("talk", user_id="ann")
    options: TurnOptions = {"max_tokens": 300}
    try:
        answered: TurnResult = await handle.say("I live in Oslo", turn_id="t1", when_busy="wait", **options)
    except (ConversationBusy, ConversationClosed) as error:
        print(error)
        return
    async with handle.stream("Where do I live?", turn_id="t2", on_disconnect="finish") as stream:
        print([delta async for delta in stream], await stream.result())
    async with handle.follow("t2") as followed:
        print(await followed.result())
    turns: tuple[TurnReport, ...] = await handle.history(after=0, limit=10)
    ended: Ended | None = turns[0].outcome
    context: tuple[Message, ...] = await handle.context()
    state: ConversationState = await handle.state()
    cost: ConversationCost = await handle.cost()
    print(answered.number, ended, len(context), state.turns, cost.total_usd)
    await handle.set_preferences({"language": "no"})
    whole: ConversationExport = await handle.export()
    fixed: Memory = await handle.correct_memory(whole.memories[0].id, "Bergen")
    await handle.forget_memory(fixed.id)
    used: tuple[KnowledgeUsed, ...] | None = turns[0].knowledge_used
    print(used)
    await handle.close()
    listed: list[ListedConversation] = await client.conversations(before=None, limit=5)
    found: ConversationHandle = await client.find_conversation(listed[0].id)
    memories: UserMemory = client.memory
    known: list[Memory] = await memories.show(found.user_id, with_ended=True)
    try:
        corrected: Memory = await memories.correct("ann", known[0].id, "Bergen")
    except MemoryChanged:
        corrected = known[0]
    print(await memories.forget("ann", corrected.id), await client.forget_user("ann"))


async def know(client: Client) -> None:
    """What conversations are answered from."""
    knowledge: Knowledge = client.knowledge
    kind: DocumentKind = DocumentKind.MARKDOWN
    added: AddedDocument = await knowledge.add("# Hours", name="hours", kind=kind, on_progress=None)
    outcome: AddOutcome = added.outcome
    await knowledge.add_file(Path("prices.pdf"), name="prices")
    documents: tuple[KnowledgeDocument, ...] = await knowledge.list(after="", limit=10)
    passages: tuple[KnowledgePassage, ...] = await knowledge.search("When do you open?", limit=3)
    await knowledge.remove(documents[0].id)
    print(outcome, passages[0].text, knowledge.has_vectors)


async def hold_phone_calls(client: Client) -> None:
    """A number whose calls an agent answers."""
    phone: Phone = client.phone
    settings = NumberSettings(
        phrases=Phrases(filler="One moment. "),
        languages=(SpokenLanguage(code="es-US"),),
        keys={"1": KeyAction(kind="enter", text="Your PIN, please.", secret=True, expected="pin")},
        digits=Digits(most=4),
        templates=(AnswerTemplate(words=("price",), text="Let me see the prices."),),
        deadlines=Deadlines(filler=1.5),
        limits=PhoneLimits(call_usd=Decimal(1)),
    )
    number: PhoneNumber = await phone.set_number("+15550100001", settings)
    numbers: tuple[PhoneNumber, ...] = await phone.numbers()
    call_sid: str = await phone.dial(
        "+15550100002", from_number=number.number, parameters={"pin": phone.sealed("1234")}
    )
    call: PhoneCallReport = await phone.call(call_sid)
    status: CallStatus = call.status
    turns: tuple[PhoneTurn, ...] = await phone.turns(call_sid)
    latest: tuple[PhoneCallReport, ...] = await phone.calls(before=None, limit=5, is_open=True)
    await phone.remove_number(numbers[0].number)
    print(status, turns[0].heard, len(latest))


def with_receiver(client: Client, receiver: StreamReceiver) -> Backend:
    """A backend whose streams come from other processes."""
    target: StreamTarget = StreamTarget(address=None, on_disconnect="finish")
    print(target.address)
    return Backend(client.temporal, client.database, client.settings, receiver)
