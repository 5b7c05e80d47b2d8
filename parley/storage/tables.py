"""Every table. Money is NUMERIC, time is timestamptz, and every row of a workspace has a workspace_id."""

# SQLModel declares `__tablename__` as a function that computes it; a plain string is the common form.
# pyright: reportAssignmentType=false

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    BindParameter,
    CheckConstraint,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    String,
    TypeDecorator,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import TypeEngine, UserDefinedType
from sqlmodel import Field, SQLModel

from parley.domain.money import as_usd


class Usd(TypeDecorator[Decimal]):
    """Dollars, exact to twelve decimals; a value is read with six where they suffice."""

    impl = Numeric(24, 12)
    cache_ok = True

    def process_result_value(self, value: Decimal | None, dialect: Dialect) -> Decimal | None:  # noqa: ARG002
        return None if value is None else as_usd(value)


class WrittenAt(TypeDecorator[datetime]):
    """The time of writing by the database's clock, because the clocks of workers differ: None is written as now."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def bind_expression(self, bindparam: BindParameter[datetime]) -> ColumnElement[datetime]:
        return func.coalesce(bindparam, func.statement_timestamp())

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:  # noqa: ARG002
        """Only values to write are replaced, not those that a column is compared with."""
        return self.impl_instance


class Vector(UserDefinedType[list[float]]):
    """A vector of pgvector, written from numbers. It is compared in the database, and never read."""

    cache_ok = True

    def __init__(self, dimensions: int | str) -> None:
        self.dimensions = int(dimensions)

    def get_col_spec(self, **_: Any) -> str:
        return f"VECTOR({self.dimensions})"

    def bind_processor(self, dialect: Dialect) -> Callable[..., str | None]:  # noqa: ARG002
        return lambda numbers: None if numbers is None else f"[{','.join(map(repr, numbers))}]"


# For reflection, which compares the schema of a database with this module.
ischema_names["vector"] = Vector

USD, WRITTEN_AT = Usd(), WrittenAt()
TIMESTAMP = DateTime(timezone=True)
# The dimensions of MiniLM's vectors. OpenAI's newer models can be asked for as many.
VECTOR = Vector(384)


def utc_now() -> datetime:
    return datetime.now(UTC)


class EnergyAccount(SQLModel, table=True):
    """A user's energy. What can still be reserved is `granted - charged - reserved`.

    `charged_earlier`: the part of `charged` whose requests are purged.
    """

    __tablename__ = "energy_accounts"
    __table_args__ = (
        CheckConstraint("reserved >= 0 AND charged >= 0 AND granted >= charged + reserved", name="no_overdraft"),
    )

    workspace_id: str = Field(primary_key=True)
    user_id: str = Field(primary_key=True)
    tier: str = "free"
    granted: int = 0
    charged: int = 0
    charged_earlier: int = 0
    reserved: int = 0


class EnergyEntry(SQLModel, table=True):
    """One movement of energy. Grants carry a key, so that granting twice grants once."""

    __tablename__ = "energy_entries"
    __table_args__ = (
        UniqueConstraint("workspace_id", "user_id", "grant_key", name="one_grant_per_key"),
        Index("energy_entries_by_user", "workspace_id", "user_id", "request_id"),
    )

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    workspace_id: str
    user_id: str
    kind: str  # grant, reserve, release, charge
    amount: int
    request_id: str | None = None
    grant_key: str | None = None
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class Budget(SQLModel, table=True):
    """An envelope of dollars. A cap bounds `reserved + confirmed + uncertain`."""

    __tablename__ = "budgets"
    __table_args__ = (CheckConstraint("reserved_usd >= 0 AND uncertain_usd >= 0", name="never_negative"),)

    workspace_id: str = Field(primary_key=True)
    scope: str = Field(primary_key=True)
    cap_usd: Decimal | None = Field(default=None, sa_type=USD)
    reserved_usd: Decimal = Field(default=Decimal(0), sa_type=USD)
    confirmed_usd: Decimal = Field(default=Decimal(0), sa_type=USD)
    uncertain_usd: Decimal = Field(default=Decimal(0), sa_type=USD)


class PaidRequest(SQLModel, table=True):
    """One logical request. Its owner is the attempt that holds the lease."""

    __tablename__ = "paid_requests"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'settled')", name="paid_request_state"),
        Index("paid_requests_by_lease", "lease_until", postgresql_where="owner_attempt_id IS NOT NULL"),
        Index("paid_requests_by_job", "workspace_id", "job_key", "expires_at"),
        Index("paid_requests_by_age", "expires_at"),
        Index("paid_requests_by_result", "workspace_id", "result_id", postgresql_where="result_id IS NOT NULL"),
    )

    workspace_id: str = Field(primary_key=True)
    request_id: str = Field(primary_key=True)
    result_id: str | None = None  # the first request for the same result, which the user pays for once; None for itself
    job_key: str
    user_id: str
    prospect_id: str | None = None
    action: str
    fingerprint: str
    state: str = "open"
    owner_attempt_id: UUID | None = None
    lease_until: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    settled_attempt_id: UUID | None = None
    energy_price: int = 0
    energy_reserved: int = 0
    workflow_id: str
    expires_at: datetime = Field(sa_type=TIMESTAMP)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class Attempt(SQLModel, table=True):
    """One try at a request. Its id is sent to the provider, so that the provider's records can be joined.

    joint_id: sent in its place, where attempts at several requests are sent as one; each has its share of the cost.
    """

    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("workspace_id", "request_id", "number", name="attempts_are_numbered"),
        CheckConstraint("state IN ('open', 'settled', 'duplicate', 'lost', 'failed')", name="attempt_state"),
        Index("attempts_by_time", "workspace_id", "started_at"),
        Index("attempts_by_joint", "joint_id", postgresql_where="joint_id IS NOT NULL"),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    workspace_id: str
    request_id: str
    number: int
    provider: str
    model: str
    simulated: bool
    state: str = "open"
    billed: str = "unknown"
    upper_bound_usd: Decimal = Field(sa_type=USD)
    cost_usd: Decimal | None = Field(default=None, sa_type=USD)
    rates: dict[str, Any] = Field(sa_type=JSONB)
    breaker_generation: int = 0
    fleet_generation: int | None = None
    joint_id: UUID | None = None
    error_type: str | None = None
    error: str | None = None
    started_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    ended_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)


class Submission(SQLModel, table=True):
    """Paid requests of a job that are sent to a provider's batch API together.

    state: `claiming` while requests are reserved for it, `sending` while it is unknown whether the provider has it,
    then `sent`; `refused` if the provider does not take it, `ended` once all of its attempts have ended.
    vendor_id: the provider's id of it. next_step: the first step of the job after those that are in it; None: it has
    the last one. problem: why it was refused, or not answered as a whole. sent_at: not later than the request that sent
    it. saved_usd, odd_lines: of its results, once it has ended.
    """

    __tablename__ = "submissions"
    __table_args__ = (
        CheckConstraint("state IN ('claiming', 'sending', 'sent', 'refused', 'ended')", name="submission_state"),
        Index("submissions_of_job", "workspace_id", "job_key"),
    )

    id: UUID = Field(primary_key=True)
    workspace_id: str
    job_key: str
    provider: str
    state: str = "claiming"
    vendor_id: str | None = None
    next_step: int | None = None
    problem: str = ""
    sent_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    saved_usd: Decimal = Field(default=Decimal(0), sa_type=USD)
    odd_lines: int = 0


class SubmissionLine(SQLModel, table=True):
    """An attempt in a submission. step: the step of the job that its reply is for."""

    __tablename__ = "submission_lines"
    __table_args__ = (Index("submission_lines_of", "submission_id"),)

    attempt_id: UUID = Field(primary_key=True)
    workspace_id: str
    submission_id: UUID
    step: int


class JournaledReply(SQLModel, table=True):
    """A provider's reply, stored so that a settled request is never sent again."""

    __tablename__ = "replies"

    attempt_id: UUID = Field(primary_key=True)
    workspace_id: str
    payload: dict[str, Any] = Field(sa_type=JSONB)


class UsageLog(SQLModel, table=True):
    """One row per attempt that a provider billed or may have billed.

    `cost_usd` is what we spent: the provider's own count where `confirmed`, else its upper bound.
    `energy_charged` is what the user paid: nothing for lost, duplicate and failed attempts.
    """

    __tablename__ = "ai_usage_logs"
    __table_args__ = (
        UniqueConstraint("attempt_id", name="one_row_per_attempt"),
        Index("ai_usage_logs_by_time", "workspace_id", "created_at"),
        Index("ai_usage_logs_by_job", "workspace_id", "job_key"),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    user_id: str
    workspace_id: str
    prospect_id: str | None = None
    action: str
    provider: str
    model: str
    answered_by: str = ""
    simulated: bool
    tokens_prompt: int = 0
    tokens_cached: int = 0  # read from the vendor's cache; part of tokens_prompt
    tokens_cache_written: int = 0  # part of tokens_prompt as well
    tokens_completion: int = 0
    tokens_total: int = 0
    audio_seconds: Decimal = Field(default=Decimal(0), sa_type=Numeric(12, 3))
    cost_usd: Decimal = Field(sa_type=USD)
    confirmed: bool
    outcome: str  # settled, duplicate, lost, failed
    energy_charged: int = 0
    rates: dict[str, Any] = Field(sa_type=JSONB)
    job_key: str
    request_id: str
    attempt_id: UUID
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class UsageTotal(SQLModel, table=True):
    """The sum of a day's usage rows that are purged. `day`: in UTC, on which the attempts started."""

    __tablename__ = "usage_totals"

    workspace_id: str = Field(primary_key=True)
    day: date = Field(primary_key=True)
    provider: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    action: str = Field(primary_key=True)
    simulated: bool = Field(primary_key=True)
    attempts: int = Field(sa_type=BigInteger)
    tokens_total: int = Field(sa_type=BigInteger)
    audio_seconds: Decimal = Field(sa_type=Numeric(18, 3))
    confirmed_usd: Decimal = Field(sa_type=USD)
    uncertain_usd: Decimal = Field(sa_type=USD)
    energy_charged: int = Field(sa_type=BigInteger)


class PurgeMark(SQLModel, table=True):
    """From before which time rows may be purged, so that the audit does not miss them, or are emptied, so that they
    are not read again. `subject`: events, or the replies of a workspace."""

    __tablename__ = "purge_marks"

    subject: str = Field(primary_key=True)
    before: datetime = Field(sa_type=TIMESTAMP)


class OutboxEvent(SQLModel, table=True):
    """An analytics event, written in the transaction that it reports, delivered later at least once.

    `key` makes the event of a repeated step idempotent. `attempt_id`: the attempt that it reports, if it reports one.
    `next_at`: see storage/outbox.py. `problem`: why the last try failed.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("workspace_id", "key", name="one_event_per_key"),
        Index("outbox_due", "next_at", "id", postgresql_where="next_at IS NOT NULL"),
        Index("outbox_by_age", "created_at"),
    )

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    workspace_id: str
    kind: str
    key: str | None = None
    attempt_id: UUID | None = None
    payload: dict[str, Any] = Field(sa_type=JSONB)
    tries: int = 0
    next_at: datetime | None = Field(default=None, sa_type=WRITTEN_AT)
    problem: str = ""
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    delivered_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)


class Breaker(SQLModel, table=True):
    """A workspace's breaker for a provider; with an empty workspace, the fleet's. A missing row is a closed breaker.

    `failing`: the workspaces of the failures in a row; two are enough.
    """

    __tablename__ = "breakers"

    provider: str = Field(primary_key=True)
    workspace_id: str = Field(primary_key=True)
    failures: int = 0
    failing: list[str] = Field(default_factory=list, sa_type=ARRAY(String))
    generation: int = 0
    open_until: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    probe_until: datetime | None = Field(default=None, sa_type=TIMESTAMP)


class StoredSession(SQLModel, table=True):
    """A session's content under its hash: analyses of two versions never mix. `created_at`: when it was last stored."""

    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_by_age", "created_at"),)

    workspace_id: str = Field(primary_key=True)
    session_id: str = Field(primary_key=True)
    sha256: str = Field(primary_key=True)
    user_id: str
    payload: dict[str, Any] = Field(sa_type=JSONB)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class Recording(SQLModel, table=True):
    """A session's audio under its hash. `created_at`: when it was last stored."""

    __tablename__ = "recordings"
    __table_args__ = (Index("recordings_by_age", "created_at"),)

    workspace_id: str = Field(primary_key=True)
    sha256: str = Field(primary_key=True)
    seconds: Decimal = Field(sa_type=Numeric(12, 3))
    audio: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class StoredAnalysis(SQLModel, table=True):
    """One analysis job: its parts as they come in, and the result."""

    __tablename__ = "session_analyses"
    __table_args__ = (
        Index("session_analyses_by_session", "workspace_id", "session_id", "session_sha256"),
        Index("session_analyses_by_workflow", "workspace_id", "workflow_id"),
        Index("session_analyses_by_recording", "workspace_id", "recording_sha256"),
        Index("session_analyses_by_age", "created_at"),
        Index("session_analyses_by_user", "workspace_id", "user_id", "rubric", "created_at"),
    )

    workspace_id: str = Field(primary_key=True)
    job_key: str = Field(primary_key=True)
    workflow_id: str
    session_id: str
    session_sha256: str
    recording_sha256: str | None = None
    user_id: str
    rubric: str = ""  # `name@version`; empty for results from before there were rubrics
    status: str = "running"  # running, completed, failed, cancelled
    voice_metrics: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    acoustics: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    curves: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    coaching: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    result: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    reason: str = ""  # why it failed or was cancelled
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    ended_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)


class StoredRubric(SQLModel, table=True):
    """A workspace's own rubric. A version never changes: the scores by it stay comparable."""

    __tablename__ = "rubrics"

    workspace_id: str = Field(primary_key=True)
    rubric_id: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    payload: dict[str, Any] = Field(sa_type=JSONB)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class Dataset(SQLModel, table=True):
    """One imported file of chat sessions, under the hash of its content: importing it again changes nothing."""

    __tablename__ = "datasets"

    workspace_id: str = Field(primary_key=True)
    dataset_id: str = Field(primary_key=True)
    name: str
    sessions: int
    tokens: int = Field(sa_type=BigInteger)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class StoredChat(SQLModel, table=True):
    """One chat session of a dataset. `position`: its place in the file."""

    __tablename__ = "chat_sessions"
    __table_args__ = (UniqueConstraint("workspace_id", "dataset_id", "session_id", name="one_session_per_id"),)

    workspace_id: str = Field(primary_key=True)
    dataset_id: str = Field(primary_key=True)
    position: int = Field(primary_key=True)
    session_id: str
    user_id: str
    containment: str
    tokens: int
    started_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    transcript_hash: bytes | None = None  # None: imported before there were hashes
    payload: dict[str, Any] = Field(sa_type=JSONB)


class AutoRun(SQLModel, table=True):
    """One AutoAnalyze job. `plans`: the number of streams of each plan by which its batches were cut."""

    __tablename__ = "auto_runs"
    __table_args__ = (Index("auto_runs_by_workflow", "workspace_id", "workflow_id"),)

    workspace_id: str = Field(primary_key=True)
    job_key: str = Field(primary_key=True)
    workflow_id: str
    dataset_id: str
    user_id: str
    settings: dict[str, Any] = Field(sa_type=JSONB)
    status: str = "running"  # running, completed, failed, cancelled
    statistics: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    reason: str = ""  # why it failed or was cancelled
    review_until: datetime | None = Field(default=None, sa_type=TIMESTAMP)  # while it waits for a review of its merges
    plans: list[int] = Field(default_factory=list[int], sa_type=ARRAY(Integer))
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    ended_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)


class AutoSession(SQLModel, table=True):
    """One session of a run. `ordinal`: its place in the processing order.

    `copy_of`: the ordinal of the session whose transcript and labels it has; None if it is labelled itself.
    `better_intent`: what the second look gives it, `merged_intent`: what it had before that was applied; None if the
    second look changes nothing. `…_quote`: words of the session that show the label.
    `probe_round`, `probe_intent`: in the place of which round it was labelled a second time, and how; None if it was
    not.
    """

    __tablename__ = "auto_sessions"
    __table_args__ = (Index("auto_sessions_by_position", "workspace_id", "job_key", "position", unique=True),)

    workspace_id: str = Field(primary_key=True)
    job_key: str = Field(primary_key=True)
    ordinal: int = Field(primary_key=True)
    position: int
    copy_of: int | None = None
    condensed: str | None = None
    phase: str | None = None
    round: int | None = None
    stream: int | None = None
    intent: str | None = None
    transfer_reason: str | None = None
    drop_off_location: str | None = None
    canonical_intent: str | None = None
    canonical_transfer_reason: str | None = None
    canonical_drop_off_location: str | None = None
    better_intent: str | None = None
    merged_intent: str | None = None
    probe_round: int | None = None
    probe_intent: str | None = None
    intent_quote: str | None = None
    transfer_reason_quote: str | None = None
    drop_off_location_quote: str | None = None
    summary: str | None = None
    fallback: bool = False
    by_rule: bool = False


class AutoBatch(SQLModel, table=True):
    """A batch of a run: the sessions from the ordinal `start` on that one stream labels in one round.

    `stream`: which stream labels it; None while none has taken it. The lowest round with a batch that is not labelled
    is how far all streams have come.
    """

    __tablename__ = "auto_batches"
    __table_args__ = (
        Index("auto_batches_open", "workspace_id", "job_key", "number", postgresql_where=text("NOT labelled")),
        Index(
            "auto_batches_held",
            "workspace_id",
            "job_key",
            "stream",
            "number",
            postgresql_where=text("NOT labelled AND stream IS NOT NULL"),
        ),
    )

    workspace_id: str = Field(primary_key=True)
    job_key: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    round: int
    stream: int | None = None
    start: int
    count: int
    labelled: bool = False


class AutoReassignment(SQLModel, table=True):
    """Sessions whose labels are looked at again together, by their ordinals. `is_done`: they are looked at.

    `labels`: the intents that they had when the batch was planned, in the order of `ordinals`; None in rows of versions
    that looked once, at what merging had left.
    """

    __tablename__ = "auto_reassignments"

    workspace_id: str = Field(primary_key=True)
    job_key: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    aspect: str
    ordinals: list[int] = Field(sa_type=ARRAY(Integer))
    labels: list[str] | None = Field(default=None, sa_type=ARRAY(String))
    is_done: bool = False


class AutoLabel(SQLModel, table=True):
    """A label of a run with the round that first saw it, and the canonical label it was merged into.

    `first_ordinal`: the first session that has it, `meaning` and `example`: its summary, and what its user said. Later
    prompts show them.
    `sessions`, `definition` and `examples`: its evidence, counted before labels are compared.
    """

    __tablename__ = "auto_labels"

    workspace_id: str = Field(primary_key=True)
    job_key: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    label: str = Field(primary_key=True)
    first_round: int
    canonical: str | None = None
    first_ordinal: int | None = None
    meaning: str | None = None
    example: str | None = None
    sessions: int | None = None
    definition: str | None = None
    examples: list[str] | None = Field(default=None, sa_type=JSONB)


class StoredTaxonomy(SQLModel, table=True):
    """Labels that runs start from, under the hash of them."""

    __tablename__ = "taxonomies"

    workspace_id: str = Field(primary_key=True)
    taxonomy_id: str = Field(primary_key=True)
    labels: list[dict[str, Any]] = Field(sa_type=JSONB)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class AutoMerge(SQLModel, table=True):
    """The canonical label of one level of conflict resolution. Levels never change.

    `request_id`: the paid request whose reply merged it; None for labels that are only written differently.
    """

    __tablename__ = "auto_merges"

    workspace_id: str = Field(primary_key=True)
    job_key: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    level: int = Field(primary_key=True)
    label: str = Field(primary_key=True)
    canonical: str
    request_id: str | None = None


class AutoLabelMap(SQLModel, table=True):
    """A version of the map from the labels of a run to their canonical labels. Versions never change.

    `parent`: the version on whose state it was made; None for version 0, the labels as they were found.
    `kind`, `sources` and `target`: what a person changed. `labels`: by kind, each label that has another canonical one,
    with that one and the version that gave it. `reassigned`: whether the second look at sessions counts.
    """

    __tablename__ = "auto_label_maps"

    workspace_id: str = Field(primary_key=True)
    job_key: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    parent: int | None = None
    action: str
    made_by: str
    reason: str = ""
    kind: str | None = None
    sources: list[str] = Field(default_factory=list, sa_type=JSONB)
    target: str | None = None
    labels: dict[str, dict[str, list[Any]]] = Field(sa_type=JSONB)
    reassigned: bool = False
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class SpendingCap(SQLModel, table=True):
    """The limit in USD of a workspace's spending in a period. What counts against it: see storage/budgets.py."""

    __tablename__ = "spending_caps"
    __table_args__ = (CheckConstraint("period IN ('day', 'week', 'month')", name="cap_period"),)

    workspace_id: str = Field(primary_key=True)
    period: str = Field(primary_key=True)
    cap_usd: Decimal = Field(sa_type=USD)
    updated_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class CostCorrection(SQLModel, table=True):
    """The entry of an uncertain cost that a provider's list decided: from its upper bound to `cost_usd`."""

    __tablename__ = "cost_corrections"

    attempt_id: UUID = Field(primary_key=True)
    workspace_id: str
    source: str
    upper_bound_usd: Decimal = Field(sa_type=USD)
    cost_usd: Decimal = Field(sa_type=USD)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class StoredConfiguration(SQLModel, table=True):
    """One section of a workspace's configuration, or of one user's in it (`owner`; empty for the workspace)."""

    __tablename__ = "configuration"

    workspace_id: str = Field(primary_key=True)
    owner: str = Field(primary_key=True, default="")
    section: str = Field(primary_key=True)
    payload: dict[str, Any] = Field(sa_type=JSONB)
    updated_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class StoredPrompt(SQLModel, table=True):
    """A prompt too long for a workflow's history, under its hash. `stored_at`: when it was last used."""

    __tablename__ = "prompts"
    __table_args__ = (Index("prompts_by_time", "stored_at"),)

    workspace_id: str = Field(primary_key=True)
    sha256: str = Field(primary_key=True)
    payload: dict[str, Any] = Field(sa_type=JSONB)
    stored_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class ConversationSummary(SQLModel, table=True):
    """Whose reply condenses a conversation's first `messages`. `sha256`: see domain/generate/condensing.py."""

    __tablename__ = "summaries"
    __table_args__ = (Index("summaries_by_time", "created_at"), Index("summaries_by_attempt", "attempt_id"))

    workspace_id: str = Field(primary_key=True)
    sha256: str = Field(primary_key=True)
    messages: int
    attempt_id: UUID
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class StoredConversation(SQLModel, table=True):
    """A conversation of a user, with its running summary through the turn with the number `summarized_through`.

    turns: the number of the last turn whose answer was begun. instructions: its own system prompt.
    """

    __tablename__ = "conversations"
    __table_args__ = (
        Index("conversations_by_age", "last_turn_at"),
        Index("conversations_newest", "workspace_id", "last_turn_at"),
    )

    workspace_id: str = Field(primary_key=True)
    conversation_id: str = Field(primary_key=True)
    user_id: str
    summary: str = ""
    summarized_through: int = 0
    summary_tokens: int = 0
    instructions: str = ""
    turns: int = 0
    closed_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    last_turn_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class ConversationTurn(SQLModel, table=True):
    """One turn of a conversation, with its answer.

    number: the order in which turns are answered; None while a turn waits.
    tokens: of the text and the answer. meta: how the answer was made. terms: see domain/conversation/contract.py.

    Of a phone call alone, and None elsewhere: heard (what the caller heard of the answer, where that is not all of it),
    interrupted, filler_ms, template_ms, first_token_ms, response_ms, audio_ms, error: see `TurnMeasures`.
    knowledge_used: the passages of the knowledge base in the prompt; None if it was not searched.
    """

    __tablename__ = "conversation_turns"
    __table_args__ = (
        CheckConstraint("outcome IN ('', 'completed', 'refused', 'failed', 'cancelled')", name="turn_outcome"),
        Index("conversation_turns_by_number", "workspace_id", "conversation_id", "number", unique=True),
    )

    workspace_id: str = Field(primary_key=True)
    conversation_id: str = Field(primary_key=True)
    turn_id: str = Field(primary_key=True)
    number: int | None = None
    fingerprint: str
    text: str
    terms: dict[str, Any] = Field(sa_type=JSONB)
    answer: str | None = None
    tokens: int = 0
    outcome: str = ""
    reason: str = ""
    meta: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    context_sha256: str = ""
    heard: str | None = None
    interrupted: bool = False
    filler_ms: int | None = None
    template_ms: int | None = None
    first_token_ms: int | None = None
    response_ms: int | None = None
    audio_ms: int | None = None
    knowledge_used: list[dict[str, Any]] | None = Field(default=None, sa_type=JSONB)
    error: str | None = None
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    ended_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)


class Generation(SQLModel, table=True):
    """The outcome of one `Generate`, of all runs under its key: written when the outcome is known.

    `fingerprint`: of the input; see `GenerateInput.fingerprint`.
    """

    __tablename__ = "generations"
    __table_args__ = (
        CheckConstraint("outcome IN ('completed', 'refused', 'failed', 'cancelled')", name="generation_outcome"),
        CheckConstraint("cached IN ('', 'exact', 'similar', 'stale')", name="generation_cached"),
        Index("generations_by_time", "workspace_id", "created_at"),
        Index("generations_by_age", "created_at"),
        Index("generations_by_cached_answer", "attempt_id", postgresql_where="cached <> ''"),
    )

    workspace_id: str = Field(primary_key=True)
    request_id: str = Field(primary_key=True)
    job_key: str
    fingerprint: str
    workflow_id: str
    user_id: str
    prospect_id: str | None = None
    action: str
    template: str = ""  # name@version
    experiment: str = ""
    arm: str = ""
    outcome: str
    reason: str = ""  # the code of the refusal or of the error
    cached: str = ""
    provider: str = ""
    model: str = ""
    attempt_id: UUID | None = None  # whose reply was given; for a cached answer, whose it was
    tokens_total: int = 0
    cost_usd: Decimal = Field(default=Decimal(0), sa_type=USD)
    saved_usd: Decimal = Field(default=Decimal(0), sa_type=USD)
    quality: Decimal | None = Field(default=None, sa_type=Numeric(4, 3))
    feedback: str | None = None  # good, bad
    # When its job started, and when it ended.
    started_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class CachedAnswer(SQLModel, table=True):
    """An answer that may be given again. `key`: see domain/generate/caching.py."""

    __tablename__ = "llm_cache"
    __table_args__ = (
        Index("llm_cache_by_context", "workspace_id", "user_id", "action", "context_sha256", "created_at"),
        Index("llm_cache_by_expiry", "expires_at"),
        Index("llm_cache_by_attempt", "attempt_id"),
    )

    workspace_id: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    provider: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    simulated: bool
    action: str
    user_id: str
    context_sha256: str
    question: str  # the last thing that the user said, which similarity compares
    attempt_id: UUID
    reply: dict[str, Any] = Field(sa_type=JSONB)
    cost_usd: Decimal = Field(sa_type=USD)
    uses: int = 0
    last_used_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    expires_at: datetime = Field(sa_type=TIMESTAMP)


class CostAlert(SQLModel, table=True):
    """A period in which a workspace spent more than the alert's threshold. One row per period."""

    __tablename__ = "cost_alerts"

    workspace_id: str = Field(primary_key=True)
    period: str = Field(primary_key=True)  # 2026-W47
    threshold_usd: Decimal = Field(sa_type=USD)
    spent_usd: Decimal = Field(sa_type=USD)
    uncertain_usd: Decimal = Field(sa_type=USD)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class StoredGatewayKey(SQLModel, table=True):
    """A key of the gateway. `sha256`: of its secret, which is not stored.

    `minute_requests`: the requests that gateway processes have taken from the allowance of `minute`.
    """

    __tablename__ = "gateway_keys"
    __table_args__ = (
        UniqueConstraint("sha256", name="one_key_per_hash"),
        Index("gateway_keys_by_workspace", "workspace_id", "created_at"),
    )

    key_id: str = Field(primary_key=True)
    workspace_id: str
    name: str
    prefix: str
    sha256: str
    scopes: list[str] = Field(sa_type=ARRAY(String))
    requests_per_minute: int
    concurrent_streams: int
    mode: str | None = None
    minute: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    minute_requests: int = 0
    last_used_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    expires_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    revoked_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class StoredStream(SQLModel, table=True):
    """A stream of a generation's deltas, under the id of its workflow; see storage/streams.py.

    `attempt`: the number of the newest one, which alone may write. `receivers`: the addresses that it is sent to.
    `paid_request_id`, `attempt_id`: what it pays. `starts_at`: the offset at which the reply to that begins. `reply`:
    the whole reply, once it is there. `ended_at`: when an attempt with a reply ended.
    """

    __tablename__ = "streams"
    __table_args__ = (Index("streams_by_end", "ended_at"), Index("streams_by_age", "created_at"))

    workspace_id: str = Field(primary_key=True)
    stream_id: str = Field(primary_key=True)
    attempt: int
    receivers: list[str] = Field(sa_type=ARRAY(String))
    paid_request_id: str = ""
    attempt_id: str = ""
    starts_at: int = 0
    reply: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    ended_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    scheduled_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)  # of the step of the newest attempt


class StreamChunk(SQLModel, table=True):
    """Deltas of a stream that were delivered. `first_offset`: the number of deltas before them."""

    __tablename__ = "stream_chunks"

    workspace_id: str = Field(primary_key=True)
    stream_id: str = Field(primary_key=True)
    first_offset: int = Field(primary_key=True)
    deltas: list[dict[str, Any]] = Field(sa_type=JSONB)


class ConsoleSession(SQLModel, table=True):
    """A sign-in to the console with a gateway key. `sha256`: of the cookie's token, which is not stored."""

    __tablename__ = "console_sessions"
    __table_args__ = (Index("console_sessions_by_expiry", "expires_at"),)

    sha256: str = Field(primary_key=True)
    workspace_id: str
    key_id: str
    expires_at: datetime = Field(sa_type=TIMESTAMP)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class StoredMemory(SQLModel, table=True):
    """A fact of a user: see domain/conversation/memory.py. One that was forgotten keeps its id, and no content.

    `attempt_id`: whose reply has the fact; None if it was corrected by hand. `embedding`: the vector of the fact's
    text, by the model `embedded_by`; None until it is computed.
    """

    __tablename__ = "memories"
    __table_args__ = (
        Index("memories_by_user", "workspace_id", "user_id", "valid_from"),
        Index("memories_by_end", "valid_until", postgresql_where="valid_until IS NOT NULL"),
    )

    workspace_id: str = Field(primary_key=True)
    memory_id: UUID = Field(primary_key=True)
    user_id: str
    subject: str
    predicate: str
    value: str
    confidence: float
    importance: float
    conversation_id: str = ""
    turn_id: str = ""
    attempt_id: UUID | None = None
    valid_from: datetime = Field(sa_type=TIMESTAMP)
    valid_until: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    forgotten_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)
    embedding: list[float] | None = Field(default=None, sa_type=VECTOR)
    embedded_by: str = ""
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class StoredPhoneNumber(SQLModel, table=True):
    """A phone number of a workspace. `settings`: see domain/phone/settings.py. A number has one workspace."""

    __tablename__ = "phone_numbers"
    __table_args__ = (UniqueConstraint("number", name="one_workspace_per_number"),)

    workspace_id: str = Field(primary_key=True)
    number: str = Field(primary_key=True)
    settings: dict[str, Any] = Field(sa_type=JSONB)
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    updated_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class StoredDocument(SQLModel, table=True):
    """A document of a workspace's knowledge base; see domain/knowledge. `document_id` follows from the name."""

    __tablename__ = "knowledge_documents"
    __table_args__ = (UniqueConstraint("workspace_id", "name", name="one_document_per_name"),)

    workspace_id: str = Field(primary_key=True)
    document_id: UUID = Field(primary_key=True)
    name: str
    title: str
    kind: str  # text, markdown, html, pdf
    sha256: str
    characters: int
    chunks: int
    vectors: int
    created_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    updated_at: datetime = Field(default=None, sa_type=WRITTEN_AT)


class CallSession(SQLModel, table=True):
    """A phone call: see `PhoneCallReport`. Its turns are those of the conversation with the id `call_sid`.

    status: Twilio's last word, of which a final one stays. handoff: what the agent gave to the person who took over.
    analysis: the job of its `SessionAnalysis`. sessions: of ConversationRelay, that have begun. left_session: the
    number of the latest one whose end is recorded; the gateway of a later one is connected, or was lost.
    secret_entry: the `OpenEntry` of its keys; None: none is open, as far as is known. It has no digits.
    keep_days: of its number, when that was removed; None: its number says it, or as conversations are.
    """

    __tablename__ = "call_sessions"
    __table_args__ = (
        CheckConstraint("direction IN ('inbound', 'outbound', 'console')", name="call_direction"),
        Index("call_sessions_newest", "workspace_id", "started_at"),
        Index("call_sessions_open", "workspace_id", postgresql_where="ended_at IS NULL"),
        Index("call_sessions_by_age", "started_at"),
    )

    workspace_id: str = Field(primary_key=True)
    call_sid: str = Field(primary_key=True)
    number: str
    caller: str
    direction: str
    user_id: str
    account_sid: str = ""
    parent_call_sid: str = ""
    forwarded_from: str = ""
    caller_name: str = ""
    language: str
    parameters: dict[str, str] = Field(sa_type=JSONB)
    status: str
    reason: str = ""
    handoff: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    sessions: int = 0
    left_session: int = 0
    interruptions: int = 0
    errors: int = 0
    keys: int = 0
    secret_entry: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    analysis: str = ""
    keep_days: int | None = None
    started_at: datetime = Field(default=None, sa_type=WRITTEN_AT)
    ended_at: datetime | None = Field(default=None, sa_type=TIMESTAMP)


class KnowledgeChunk(SQLModel, table=True):
    """A passage of a document. `words`: the lexemes of its title, headings (weight A) and text.

    `embedding`: its vector, by the model `embedded_by`; None where vectors were not installed.
    """

    __tablename__ = "knowledge_chunks"
    __table_args__ = (Index("knowledge_chunks_by_words", "words", postgresql_using="gin"),)

    workspace_id: str = Field(primary_key=True)
    document_id: UUID = Field(primary_key=True)
    number: int = Field(primary_key=True)
    heading: str
    text: str
    words: Any = Field(sa_type=TSVECTOR)
    embedding: list[float] | None = Field(default=None, sa_type=VECTOR)
    embedded_by: str = ""
