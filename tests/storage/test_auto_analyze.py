"""A labelling run in the database: its order, its labels round by round, and duplicates merged level by level."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.auto_analyze.contract import ExportedSession, LabelCount, LabelKind, Phase
from parley.domain.auto_analyze.label_maps import map_of
from parley.domain.auto_analyze.sampling import SessionFacts
from parley.domain.auto_analyze.validation import SessionLabels, fallback_labels, no_text_labels
from parley.domain.chat import ChatMessage, ChatSession, Containment
from parley.domain.errors import NotFound, ParleyError
from parley.storage import auto_analyze as runs
from parley.storage import datasets, label_maps
from parley.storage.auto_analyze import Work
from parley.storage.database import Database
from parley.storage.tables import AutoBatch, AutoLabel, AutoLabelMap, AutoMerge, AutoRun, AutoSession, Dataset

INTENT, REASON, LOCATION = LabelKind
ACME, JOB, DATASET = "acme", "job", "dataset"
KINDS = tuple(Containment)


def chat(position: int) -> ChatSession:
    """Containments take turns: agent, selfService, dropOff."""
    return ChatSession(
        session_id=f"s-{position}",
        user_id=f"u-{position % 2}",
        containment=KINDS[position % 3],
        messages=(ChatMessage(role="user", text=f"question {position}"),),
    )


def run_row(workspace: str = ACME, job: str = JOB, workflow: str = "workflow") -> AutoRun:
    return AutoRun(
        workspace_id=workspace, job_key=job, workflow_id=workflow, dataset_id=DATASET, user_id="ann", settings={}
    )


def labels(
    intent: str, reason: str | None = None, location: str | None = None, summary: str = "As it was."
) -> SessionLabels:
    return SessionLabels(intent=intent, transfer_reason=reason, drop_off_location=location, summary=summary)


class Run:
    """One run of a workspace; every operation in a separate transaction."""

    def __init__(self, database: Database, workspace: str = ACME, job: str = JOB) -> None:
        self.database, self.scope = database, (workspace, job)

    async def call(self, operation: Callable[..., Awaitable[Any]], *args: Any, **how: Any) -> Any:
        async with self.database.transaction() as tx:
            return await operation(tx, *self.scope, *args, **how)

    async def import_(self, count: int) -> "Run":
        workspace, _ = self.scope
        async with self.database.transaction() as tx:
            await datasets.save_chats(tx, workspace, DATASET, [(at, chat(at), 100 + at) for at in range(count)])
            tx.add(Dataset(workspace_id=workspace, dataset_id=DATASET, name="x", sessions=count, tokens=100 * count))
        return self

    async def begin(self, positions: list[int], copies: Mapping[int, int] = runs.NO_COPIES) -> "Run":
        async with self.database.transaction() as tx:
            await runs.begin(tx, run_row(*self.scope), positions, copies)
        return self

    async def store(
        self,
        found: Mapping[int, SessionLabels],
        round_number: int = 0,
        stream: int = 0,
        phase: Phase = Phase.PARALLEL,
        ends: int | None = None,
        said: Mapping[int, str] = runs.NOTHING_SAID,
    ) -> int:
        return (await self.call(runs.store_labels, found, runs.Place(phase, round_number, stream, ends), said)).new

    async def end(self, number: int, stream: int = 0, *, takes_next: bool = False) -> runs.Stored:
        """Label the last session of a batch, and return what follows from it."""
        place = runs.Place(Phase.PARALLEL, 1, stream, number, takes_next=takes_next)
        return await self.call(runs.store_labels, {11: labels("billing")}, place)

    async def merge(self, level: int, merged: Mapping[str, str], kind: LabelKind = INTENT) -> None:
        await self.call(runs.store_merges, kind, level, merged)

    async def apply(self, kind: LabelKind = INTENT) -> None:
        async with self.database.transaction() as tx:
            mapping = await runs.canonical_labels(tx, *self.scope, kind, 1000)
            await label_maps.apply(tx, *self.scope, map_of({kind: mapping}, 1))

    async def sessions(self) -> list[AutoSession]:
        query = select(AutoSession).where(
            col(AutoSession.workspace_id) == self.scope[0], col(AutoSession.job_key) == self.scope[1]
        )
        async with self.database.transaction() as tx:
            return list((await tx.execute(query.order_by(col(AutoSession.ordinal)))).scalars())

    async def exported(self) -> list[ExportedSession]:
        return [session for _, session in await self.call(runs.export_rows, after=-1, limit=1000)]


@pytest.fixture
async def run(database: Database) -> Run:
    """Twelve sessions, to be processed from the last to the first."""
    return await (await Run(database).import_(12)).begin(list(reversed(range(12))))


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The statements that are sent during the block. One for many rows counts once."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)


class TestOrder:
    async def test_sessions_are_numbered_in_the_order_given(self, run: Run):
        assert [(row.ordinal, row.position) for row in await run.sessions()] == [(at, 11 - at) for at in range(12)]

    async def test_beginning_again_changes_nothing(self, run: Run):
        await run.store({0: labels("billing")})
        await run.begin([3, 1, 2])
        rows = await run.sessions()
        assert [row.position for row in rows] == list(reversed(range(12)))
        assert rows[0].intent == "billing"

    async def test_sizes_are_in_processing_order(self, run: Run):
        assert await run.call(runs.tokens_from, 0, 3) == [111, 110, 109]
        assert await run.call(runs.tokens_from, 10, 15) == [101, 100]
        assert await run.call(runs.tokens_from, 12, 15) == []

    async def test_sessions_are_loaded_in_processing_order_with_their_content(self, run: Run):
        assert await run.call(runs.load_work, [5, 0]) == [
            Work(ordinal=0, session=chat(11), tokens=111, condensed=None),
            Work(ordinal=5, session=chat(6), tokens=106, condensed=None),
        ]
        assert await run.call(runs.load_work, [99]) == []

    async def test_a_condensed_text_stays_with_its_session(self, run: Run):
        await run.call(runs.store_condensed, 3, "in \0 short \ud800")
        work = await run.call(runs.load_work, [2, 3])
        assert [item.condensed for item in work] == [None, "in \ufffd short \ufffd"]

    async def test_a_long_run_is_numbered_without_gaps_and_known_to_the_planner(self, database: Database):
        """With query plans for empty tables, every step would read the whole dataset."""
        run = await (await Run(database).import_(4500)).begin(list(reversed(range(4500))))
        assert [row.position for row in await run.sessions()] == list(reversed(range(4500)))
        async with database.transaction() as tx:
            query = "SELECT relname, reltuples FROM pg_class WHERE relname IN ('auto_sessions', 'chat_sessions')"
            assert dict((await tx.execute(text(query))).all()) == {"auto_sessions": 4500, "chat_sessions": 4500}

    async def test_beginning_takes_a_few_statements_for_any_number_of_sessions(self, database: Database):
        run = await Run(database).import_(4500)
        with statements(database) as seen:
            await run.begin(list(range(4500)))
        assert len(seen) == 3, seen

    async def test_a_session_has_one_position(self, database: Database):
        with pytest.raises(IntegrityError):
            await Run(database).begin([3, 1, 3])

    async def test_a_dataset_larger_than_a_page_is_read_completely(self, run: Run, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(datasets, "FETCHED_ROWS", 5)
        async with run.database.transaction() as tx:
            facts = await datasets.session_facts(tx, ACME, DATASET)
        assert facts == [
            SessionFacts(at, f"s-{at}", 100 + at, KINDS[at % 3], None, chat(at).transcript_hash) for at in range(12)
        ]


class TestRounds:
    async def test_labels_are_known_from_the_next_round_on(self, run: Run):
        await run.store({0: labels("refund", "approval"), 1: labels("billing")}, round_number=0)
        await run.store({2: labels("address", "approval"), 3: labels("billing", None, "form")}, round_number=1)
        nothing: dict[LabelKind, list[str]] = {INTENT: [], REASON: [], LOCATION: []}
        assert await run.call(runs.known_labels, up_to=-1) == nothing
        assert await run.call(runs.known_labels, up_to=0) == nothing | {
            INTENT: ["billing", "refund"],
            REASON: ["approval"],
        }
        later = {INTENT: ["billing", "refund", "address"], REASON: ["approval"], LOCATION: ["form"]}
        assert await run.call(runs.known_labels, up_to=1) == await run.call(runs.known_labels) == later
        newer = {INTENT: ["address"], REASON: [], LOCATION: ["form"]}
        assert await run.call(runs.known_labels, after=0, up_to=1) == newer

    async def test_the_first_round_of_a_label_is_the_lowest_that_found_it(self, run: Run):
        """Streams are at different rounds, and a later round may store a label before an earlier one."""
        assert await run.store({0: labels("refund")}, round_number=5) == 1
        assert await run.store({1: labels("refund")}, round_number=4) == 0
        assert await run.store({2: labels("refund")}, round_number=6) == 0
        assert (await run.call(runs.known_labels, up_to=3))[INTENT] == []
        assert (await run.call(runs.known_labels, up_to=4))[INTENT] == ["refund"]

    async def test_all_found_labels_are_stored(self, run: Run):
        await run.store({4: labels("billing", "approval"), 5: fallback_labels(Containment.AGENT)}, 3, stream=2)
        rows = await run.sessions()
        assert [row.ordinal for row in rows if row.intent] == [4, 5]
        stored = rows[4]
        assert (stored.intent, stored.transfer_reason, stored.drop_off_location) == ("billing", "approval", None)
        assert (stored.summary, stored.phase, stored.round, stored.stream) == ("As it was.", "parallel streams", 3, 2)
        assert [(row.fallback, row.by_rule) for row in rows[4:6]] == [(False, False), (True, False)]

    async def test_only_labels_that_were_not_seen_are_new(self, run: Run):
        assert await run.store({0: labels("billing", "billing"), 1: labels("billing")}) == 2
        assert await run.store({2: labels("billing"), 3: labels("refund")}, round_number=1) == 1
        assert await run.store({}) == 0

    async def test_a_fallback_is_stored_and_not_offered_to_others(self, run: Run):
        no_text, fallback = no_text_labels(Containment.AGENT), fallback_labels(Containment.DROP_OFF)
        assert await run.store({0: no_text, 1: fallback}) == 0
        assert await run.store({2: labels("billing"), 3: fallback}) == 1
        assert (await run.call(runs.known_labels, up_to=0)) == {INTENT: ["billing"], REASON: [], LOCATION: []}
        stored = [row.intent for row in (await run.sessions())[:4]]
        assert stored == [no_text.intent, fallback.intent, "billing", fallback.intent]

    async def test_keeping_twice_changes_nothing(self, run: Run):
        found = {0: labels("billing", "approval"), 1: labels("refund")}
        await run.store(found)
        before = [row.model_dump() for row in await run.sessions()]
        assert await run.store(found) == 0
        assert await run.store(found, round_number=7) == 0
        assert (await run.call(runs.known_labels, up_to=0))[INTENT] == ["billing", "refund"]
        assert await run.store(found) == 0
        assert [row.model_dump() for row in await run.sessions()] == before

    async def test_streams_that_find_the_same_labels_at_once_do_not_block_each_other(self, run: Run):
        names = ["billing", "parcel", "refund"]

        async def stream(number: int) -> int:
            ordinals, order = range(number * 3, number * 3 + 3), names[number % 3 :] + names[: number % 3]
            found = {at: labels(name, name, name) for at, name in zip(ordinals, order, strict=True)}
            return await run.store(found, stream=number)

        async with asyncio.timeout(20):
            counted = [await asyncio.gather(*(stream(number) for number in range(4))) for _ in range(3)]
        assert [sum(new) for new in counted] == [9, 0, 0]

    async def test_a_label_of_an_earlier_round_is_not_written_again(self, run: Run):
        """Every request gives mostly known labels: writing those would lock their rows and leave dead versions."""
        await run.store({0: labels("billing", "approval")}, round_number=1)
        version = text("SELECT xmin, xmax, ctid::text FROM auto_labels ORDER BY kind")
        async with run.database.transaction() as tx:
            before = (await tx.execute(version)).all()
        await run.store({1: labels("billing", "approval")}, round_number=2)
        async with run.database.transaction() as tx:
            assert (await tx.execute(version)).all() == before


class TestBatches:
    """Five batches of two streams: rounds 1, 1, 2, 2 and 3."""

    @pytest.fixture
    async def run(self, database: Database) -> Run:
        run = await (await Run(database).import_(12)).begin(list(range(12)))
        await run.call(runs.store_batches, 2, [2, 2, 2, 2, 1], 2)
        return run

    async def open(self, run: Run, stream: int | None = None) -> list[tuple[int, int, int, int]]:
        """The batches that are not labelled: all, or those that a stream has taken."""
        found = await run.call(runs.open_batches, stream, 10)
        return [(one.number, one.round, one.start, one.count) for one in found]

    async def test_a_round_has_a_batch_for_each_stream(self, run: Run):
        batches = [(0, 1, 2, 2), (1, 1, 4, 2), (2, 2, 6, 2), (3, 2, 8, 2), (4, 3, 10, 1)]
        assert await self.open(run) == batches
        await run.call(runs.store_batches, 0, [5, 5], 2)  # the step may be repeated
        assert await self.open(run) == batches

    async def test_a_batch_is_open_until_its_last_sessions_are_labelled(self, run: Run):
        await run.call(runs.take_batch, 1)
        await run.store({2: labels("billing")}, 1, 1)
        assert (await self.open(run))[0][0] == 0
        await run.store({3: labels("billing")}, 1, 1, ends=0)
        assert (await self.open(run))[0][0] == 1
        assert await run.call(runs.progress) == [(1, 1, 2, 2)]

    async def test_steps_wait_for_the_first_batch_that_is_not_labelled(self, run: Run):
        for stream in (1, 2):
            await run.call(runs.take_batch, stream)
        assert (await run.call(runs.first_open)).number == 0
        found = [
            (await run.end(number, stream, takes_next=True)).first_open
            for number, stream in ((0, 1), (2, 1), (1, 2), (3, 1), (4, 2))
        ]
        assert [one and (one.number, one.round, one.stream) for one in found] == [
            (1, 1, 2),
            (1, 1, 2),
            (3, 2, 1),
            (4, 3, 2),
            None,
        ]
        assert await run.call(runs.first_open) is None

    async def test_a_stream_takes_one_batch_and_no_other_gets_it(self, run: Run):
        for _ in range(2):  # the step may be repeated
            await run.call(runs.take_batch, 2)
        await asyncio.gather(*(run.call(runs.take_batch, stream) for stream in (1, 3)))
        taken = [await self.open(run, stream) for stream in (1, 2, 3)]
        assert taken[1] == [(0, 1, 2, 2)]
        assert sorted(one[0][0] for one in taken) == [0, 1, 2]
        await run.store({}, ends=0)
        await run.call(runs.take_batch, 2)
        assert await self.open(run, 2) == [(3, 2, 8, 2)]

    async def test_a_stream_takes_the_next_batch_with_the_labels_of_its_last_one(self, run: Run):
        await run.call(runs.take_batch, 2)
        taken = [(await run.end(0, 2, takes_next=True)).taken for _ in range(2)]  # the step may be repeated
        assert taken == [runs.OpenBatch(number=1, round=1, stream=2, start=4, count=2)] * 2
        await asyncio.gather(*(run.end(1, 2, takes_next=True), run.call(runs.take_batch, 1)))
        assert sorted([(await self.open(run, stream))[0][0] for stream in (1, 2)]) == [2, 3]
        await asyncio.gather(*(run.end(number, number, takes_next=True) for number in (2, 3)))
        assert (await run.end(4, 1, takes_next=True)).taken is None

    async def test_other_streams_keep_the_rounds_that_have_begun_and_take_what_is_left(self, run: Run):
        for stream in (1, 2):
            await run.call(runs.take_batch, stream)
        await run.end(0, 1, takes_next=True)
        await run.end(2)
        begun = await run.call(runs.begun, 2)
        assert begun == runs.Begun(round=2, batches=4, end=10)
        for plan, noted in ((1, True), (1, False), (2, True)):
            assert await run.call(runs.replan, plan, 3) is noted
        assert await run.call(runs.plans) == [3, 3]
        for _ in range(2):  # the step may be repeated
            await run.call(runs.drop_batches, begun.round)
            await run.call(runs.store_batches, begun.end, [1, 1], 1, after=begun)
        assert await self.open(run) == [(1, 1, 4, 2), (3, 2, 8, 2), (4, 3, 10, 1), (5, 4, 11, 1)]
        assert await run.call(runs.open_count) == 4
        await run.call(runs.take_batch, 1)
        assert await self.open(run, 1) == [(1, 1, 4, 2)]

    async def test_a_round_with_a_paid_request_has_begun(self, run: Run):
        assert await run.call(runs.begun, 2) == runs.Begun(round=0, batches=0, end=2)
        claim = "INSERT INTO paid_requests (workspace_id, request_id, job_key, user_id, action, fingerprint, state, "
        claim += "energy_price, energy_reserved, workflow_id, expires_at, created_at) VALUES "
        claim += (
            f"('{ACME}', '{JOB}/round-1/sessions-2-3/ask-1/x', '{JOB}', 'u', 'a', 'f', 'open', 0, 0, 'w', now(), now())"
        )
        async with run.database.transaction() as tx:
            await tx.execute(text(claim))
        assert await run.call(runs.begun, 2) == runs.Begun(round=1, batches=2, end=6)

    async def test_batches_of_streams_that_have_ended_are_free_again(self, run: Run):
        """However many streams go on: with more streams than batches, some of them do not start again."""
        for stream in (2, 3):
            await run.call(runs.take_batch, stream)
        await run.call(runs.drop_batches, 1)
        await run.call(runs.take_batch, 1)
        assert await self.open(run, 1) == [(0, 1, 2, 2)]
        await run.end(0, 1, takes_next=True)
        assert await self.open(run, 1) == [(1, 1, 4, 2)]

    async def test_what_is_labelled_without_a_stream_is_counted(self, run: Run):
        await run.store({2: labels("billing"), 3: labels("billing")}, 1, 1, ends=0)
        assert await run.call(runs.progress) == [(1, 1, 2, 2)]

    async def test_labels_of_a_round_that_is_not_complete_have_no_place_yet(self, run: Run):
        await run.store({0: labels("billing")}, 0, phase=Phase.DISCOVERY)
        await run.store({2: labels("refund")}, 1, 1, ends=0)
        await run.store({6: labels("parcel")}, 2, 1, ends=2)
        found = await run.call(runs.labels_found, after=0, has_ended=False)
        assert found == [(INTENT, "billing")]
        await run.store({4: labels("address")}, 1, 2, ends=1)
        found = await run.call(runs.labels_found, after=0, has_ended=False)
        assert found == [(INTENT, "billing"), (INTENT, "address"), (INTENT, "refund")]

    async def test_labels_of_the_discovery_are_those_that_a_reply_gave(self, run: Run):
        found = {0: labels("billing"), 1: labels("billing", "approval"), 2: fallback_labels(Containment.AGENT)}
        await run.store(found, 0, phase=Phase.DISCOVERY)
        await run.store({3: labels("refund")}, 1)
        found = await run.call(runs.discovered_labels)
        assert {kind: sorted(map(str, given)) for kind, given in found.items()} == {
            INTENT: ["billing", "billing"],
            REASON: ["None", "approval"],
            LOCATION: ["None", "None"],
        }


class TestCopies:
    async def test_copies_get_the_labels_of_their_original(self, database: Database):
        run = await Run(database).import_(4)
        async with database.transaction() as tx:
            await runs.begin(tx, run_row(*run.scope), [1, 3, 0, 2], {0: 1, 2: 1})
        await run.store({0: labels("billing", "approval"), 1: labels("refund")}, 3, stream=2)
        assert await run.call(runs.copy_labels) == 2
        rows = await run.sessions()
        assert [row.copy_of for row in rows] == [None, None, 0, 0]
        assert [row.intent for row in rows] == ["billing", "refund", "billing", "billing"]
        assert {(row.transfer_reason, row.round, row.stream) for row in rows[2:]} == {("approval", 3, 2)}


class TestMerging:
    @pytest.fixture
    async def run(self, run: Run) -> Run:
        names = ["billing", "invoice problem", "wrong invoice", "parcel", "lost parcel", "refund"]
        await run.store({at: labels(name, "billing") for at, name in enumerate(names)})
        return run

    async def merged(self, run: Run, before_level: int) -> dict[str, str]:
        mapping = await run.call(runs.canonical_labels, INTENT, before_level)
        return {label: canonical for label, canonical in mapping.items() if label != canonical}

    async def test_before_any_merge_a_label_is_its_own(self, run: Run):
        mapping = await run.call(runs.canonical_labels, INTENT, 1000)
        assert len(mapping) == 6
        assert await self.merged(run, 1000) == {}
        assert await run.call(runs.canonical_labels, LOCATION, 1000) == {}

    async def test_levels_build_on_each_other(self, run: Run):
        await run.merge(0, {"wrong invoice": "invoice problem", "invoice problem": "invoice problem"})
        await run.merge(0, {"lost parcel": "parcel", "parcel": "parcel"})
        await run.merge(1, {"invoice problem": "billing", "billing": "billing"})
        await run.merge(3, {"parcel": "refund"})
        first = {"wrong invoice": "invoice problem", "lost parcel": "parcel"}
        second = {"wrong invoice": "billing", "invoice problem": "billing", "lost parcel": "parcel"}
        assert await self.merged(run, 0) == {}
        assert await self.merged(run, 1) == first
        assert await self.merged(run, 2) == await self.merged(run, 3) == second
        assert await self.merged(run, 4) == second | {"lost parcel": "refund", "parcel": "refund"}

    async def test_repeating_a_merge_changes_nothing(self, run: Run):
        await run.merge(0, {"wrong invoice": "billing", "billing": "billing"})
        await run.merge(0, {"wrong invoice": "refund"})
        await run.merge(0, {})
        assert await self.merged(run, 1000) == {"wrong invoice": "billing"}
        async with run.database.transaction() as tx:
            assert len((await tx.execute(select(AutoMerge))).all()) == 1

    async def test_sessions_get_the_canonical_label_and_the_original(self, run: Run):
        await run.merge(0, {"wrong invoice": "billing", "invoice problem": "billing"})
        await run.apply()
        rows = (await run.sessions())[:6]
        assert [row.intent for row in rows][:3] == ["billing", "invoice problem", "wrong invoice"]
        canonical = ["billing", "billing", "billing", "parcel", "lost parcel", "refund"]
        assert [row.canonical_intent for row in rows] == canonical
        assert {row.canonical_transfer_reason for row in rows} == {None}
        async with run.database.transaction() as tx:
            found = {(row.kind, row.label): row.canonical for row in (await tx.execute(select(AutoLabel))).scalars()}
        assert found[INTENT.value, "wrong invoice"] == "billing"
        assert found[INTENT.value, "refund"] == "refund"
        assert found[REASON.value, "billing"] is None

    async def test_a_label_of_one_kind_is_not_one_of_another(self, run: Run):
        await run.merge(0, {"billing": "refund"})
        await run.merge(0, {"billing": "approval"}, kind=REASON)
        await run.apply(REASON)
        rows = (await run.sessions())[:6]
        assert {row.canonical_transfer_reason for row in rows} == {"approval"}
        assert {row.canonical_intent for row in rows} == {None}

    async def test_applying_again_changes_nothing_and_a_later_level_does(self, run: Run):
        await run.merge(0, {"wrong invoice": "billing"})
        await run.apply()
        before = [row.model_dump() for row in await run.sessions()]
        await run.apply()
        assert [row.model_dump() for row in await run.sessions()] == before
        await run.merge(1, {"billing": "refund"})
        await run.apply()
        assert [row.canonical_intent for row in (await run.sessions())[:3]] == ["refund", "invoice problem", "refund"]

    async def test_applying_again_writes_no_session(self, run: Run):
        """A repeated step on a million sessions would leave as many dead rows."""

        async def versions() -> list[Any]:
            async with run.database.transaction() as tx:
                return list((await tx.execute(text("SELECT ctid::text FROM auto_sessions ORDER BY 1"))).scalars())

        await run.merge(0, {"wrong invoice": "billing"})
        before = await versions()
        await run.apply()
        applied = await versions()
        await run.apply()
        assert await versions() == applied != before

    async def test_applying_a_merge_is_atomic(self, run: Run):
        await run.merge(0, {"wrong invoice": "billing"})
        with pytest.raises(RuntimeError):
            async with run.database.transaction() as tx:
                mappings = {kind: await runs.canonical_labels(tx, *run.scope, kind, 1000) for kind in LabelKind}
                await label_maps.apply(tx, *run.scope, map_of(mappings, 1))
                raise RuntimeError
        assert {row.canonical_intent for row in await run.sessions()} == {None}
        async with run.database.transaction() as tx:
            assert set((await tx.execute(select(col(AutoLabel.canonical)))).scalars()) == {None}

    async def test_applying_any_number_of_labels_takes_two_statements_and_returns_no_rows(self, run: Run):
        mapping = await run.call(runs.canonical_labels, INTENT, 1000)
        with statements(run.database) as seen:
            await run.call(label_maps.apply, map_of({INTENT: mapping, LOCATION: {}}, 1))
        assert ["RETURNING" in statement for statement in seen] == [False, False]


class TestResults:
    async def test_sessions_are_counted_by_their_canonical_label(self, run: Run):
        names = ["wrong invoice", "billing", "parcel", "refund", "refund", "billing"]
        await run.store({at: labels(name, "approval" if at < 2 else None) for at, name in enumerate(names)})
        first = [("billing", 2), ("refund", 2), ("parcel", 1), ("wrong invoice", 1)]
        reasons = [LabelCount(kind=REASON, label="approval", sessions=2)]
        assert await run.call(runs.label_counts) == [
            *(LabelCount(kind=INTENT, label=label, sessions=count) for label, count in first),
            *reasons,
        ]
        await run.merge(0, {"wrong invoice": "billing"})
        await run.apply()
        merged = [("billing", 3), ("refund", 2), ("parcel", 1)]
        assert await run.call(runs.label_counts) == [
            *(LabelCount(kind=INTENT, label=label, sessions=count) for label, count in merged),
            *reasons,
        ]

    async def test_fallback_labels_are_counted_separately(self, run: Run):
        assert await run.call(runs.counts) == {"sessions": 12, "labelled": 0, "fallbacks": 0}
        await run.store({0: labels("billing"), 1: fallback_labels(Containment.AGENT)})
        assert await run.call(runs.counts) == {"sessions": 12, "labelled": 2, "fallbacks": 1}

    async def test_an_export_has_the_order_of_the_file_across_pages(self, run: Run):
        pages = [await run.call(runs.export_rows, after=after, limit=5) for after in (-1, 4, 9, 11)]
        assert [[position for position, _ in page] for page in pages] == [
            [0, 1, 2, 3, 4],
            [5, 6, 7, 8, 9],
            [10, 11],
            [],
        ]
        assert [session.session_id for session in await run.exported()] == [f"s-{at}" for at in range(12)]

    async def test_an_export_uses_its_index_and_does_not_read_the_messages(self, database: Database):
        """Otherwise each page would scan and sort the whole run."""
        run = await (await Run(database).import_(4500)).begin(list(reversed(range(4500))))
        used = text("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'auto_sessions_by_position'")
        flush = text("SELECT pg_stat_force_next_flush()")
        async with database.transaction() as tx:
            await tx.execute(flush)
        async with database.transaction() as tx:
            before = (await tx.execute(used)).scalar_one()
        async with database.transaction() as tx:
            with statements(database) as seen:
                assert len(await runs.export_rows(tx, *run.scope, after=2000, limit=500)) == 500
            await tx.execute(flush)
        assert ["payload" in statement for statement in seen] == [False]
        async with database.transaction() as tx:
            assert (await tx.execute(used)).scalar_one() == before + 1

    async def test_an_exported_session_has_both_labels(self, run: Run):
        await run.store({11: labels("wrong invoice", "approval")}, round_number=4, stream=1)
        await run.merge(0, {"wrong invoice": "billing"})
        await run.store({10: labels("billing")})
        await run.apply()
        first, second, third, *_ = await run.exported()
        assert first == ExportedSession(
            session_id="s-0",
            user_id="u-0",
            containment=Containment.AGENT,
            intent="billing",
            transfer_reason="approval",
            drop_off_location=None,
            summary="As it was.",
            original_intent="wrong invoice",
            original_transfer_reason="approval",
            original_drop_off_location=None,
            fallback=False,
            by_rule=False,
            phase="parallel streams",
            round=4,
            stream=1,
        )
        assert (second.intent, second.original_intent) == ("billing", "billing")
        assert (third.intent, third.phase, third.round) == (None, None, None)

    async def test_exported_rounds_are_those_of_the_streams_from_1(self, run: Run):
        for ordinal in range(3):
            await run.store({ordinal: labels("billing")}, round_number=ordinal - 2, phase=Phase.DISCOVERY)
        for ordinal in range(3, 7):
            await run.store({ordinal: labels("billing")}, round_number=1 + (ordinal > 4), stream=1 + ordinal % 2)
        found = [(session.round, session.stream) for session in reversed(await run.exported())]
        assert found == [(None, None)] * 3 + [(1, 2), (1, 1), (2, 2), (2, 1)] + [(None, None)] * 5


class TestRuns:
    async def test_a_run_is_found_by_its_key_or_as_the_latest_of_its_workflow(self, run: Run):
        await Run(run.database, ACME, "later").begin([0])
        async with run.database.transaction() as tx:
            assert (await runs.find(tx, ACME, JOB)).job_key == JOB
            assert (await runs.find(tx, ACME, "workflow")).job_key == "later"
            for workspace, name in ((ACME, "other"), ("globex", JOB), ("globex", "workflow")):
                with pytest.raises(NotFound):
                    await runs.find(tx, workspace, name)

    async def test_a_run_that_is_reset_may_end_again(self, run: Run):
        await run.call(runs.end, "cancelled", {"sessions": 3})
        await run.begin(list(range(12)))
        async with run.database.transaction() as tx:
            found = await runs.find(tx, ACME, JOB)
        assert (found.status, found.ended_at) == ("running", None)
        await run.call(runs.end, "failed", {"sessions": 5})
        await run.call(runs.end, "completed", {"sessions": 12})
        async with run.database.transaction() as tx:
            found = await runs.find(tx, ACME, JOB)
        assert (found.status, found.statistics) == ("completed", {"sessions": 12})

    async def test_a_result_is_final(self, run: Run):
        await run.call(runs.end, "completed", {"sessions": 12})
        await run.call(runs.end, "cancelled", {})
        async with run.database.transaction() as tx:
            found = await runs.find(tx, ACME, JOB)
        assert (found.status, found.statistics, found.ended_at is not None) == ("completed", {"sessions": 12}, True)

    async def test_two_runs_on_one_dataset_are_independent(self, run: Run):
        other = await Run(run.database, ACME, "other").begin(list(range(12)))
        await run.store({0: labels("billing"), 1: labels("invoice")})
        await other.store({0: labels("invoice")})
        await run.merge(0, {"invoice": "billing"})
        await run.apply()
        await other.apply()
        assert await other.call(runs.canonical_labels, INTENT, 1000) == {"invoice": "invoice"}
        assert [row.canonical_intent for row in (await other.sessions())[:2]] == ["invoice", None]


async def state_of_none(tx: AsyncSession, workspace: str) -> tuple[int, dict[LabelKind, list[str]]]:
    number, state = await label_maps.latest_state(tx, workspace, JOB)
    return number, {kind: [*one.names] for kind, one in state.kinds.items() if one.names}


FOUND = {0: labels("stolen")}
NOTHING: dict[LabelKind, list[str]] = {kind: [] for kind in LabelKind}
Trespass = Callable[[AsyncSession, str], Awaitable[Any]]

# Each function that takes a workspace, called with another workspace's ids, and its expected result.
TRESPASSES: dict[str, tuple[Trespass, Any]] = {
    "auto_analyze.find": (lambda tx, workspace: runs.find(tx, workspace, JOB), NotFound),
    "auto_analyze.end": (lambda tx, workspace: runs.end(tx, workspace, JOB, "failed", {}), None),
    "auto_analyze.tokens_from": (lambda tx, workspace: runs.tokens_from(tx, workspace, JOB, 0, 10), []),
    "auto_analyze.load_work": (lambda tx, workspace: runs.load_work(tx, workspace, JOB, [0, 1]), []),
    "auto_analyze.labels_found": (
        lambda tx, workspace: runs.labels_found(tx, workspace, JOB, after=0, has_ended=True),
        [],
    ),
    "auto_analyze.known_labels": (lambda tx, workspace: runs.known_labels(tx, workspace, JOB), NOTHING),
    "auto_analyze.discovered_labels": (
        lambda tx, workspace: runs.discovered_labels(tx, workspace, JOB),
        {kind: [] for kind in LabelKind},
    ),
    "auto_analyze.open_batches": (lambda tx, workspace: runs.open_batches(tx, workspace, JOB, None, 10), []),
    "auto_analyze.take_batch": (lambda tx, workspace: runs.take_batch(tx, workspace, JOB, 1), None),
    "auto_analyze.first_open": (lambda tx, workspace: runs.first_open(tx, workspace, JOB), None),
    "auto_analyze.begun": (lambda tx, workspace: runs.begun(tx, workspace, JOB, 2), runs.Begun(0, 0, 2)),
    "auto_analyze.replan": (lambda tx, workspace: runs.replan(tx, workspace, JOB, 1, 2), False),
    "auto_analyze.plans": (lambda tx, workspace: runs.plans(tx, workspace, JOB), []),
    "auto_analyze.drop_batches": (lambda tx, workspace: runs.drop_batches(tx, workspace, JOB, 0), None),
    "auto_analyze.open_count": (lambda tx, workspace: runs.open_count(tx, workspace, JOB), 0),
    "auto_analyze.progress": (lambda tx, workspace: runs.progress(tx, workspace, JOB), []),
    "auto_analyze.copy_labels": (lambda tx, workspace: runs.copy_labels(tx, workspace, JOB), 0),
    "auto_analyze.store_condensed": (lambda tx, workspace: runs.store_condensed(tx, workspace, JOB, 0, "stolen"), None),
    "auto_analyze.canonical_labels": (lambda tx, workspace: runs.canonical_labels(tx, workspace, JOB, INTENT, 10), {}),
    "auto_analyze.count_quotes": (lambda tx, workspace: runs.count_quotes(tx, workspace, JOB), (0, 0)),
    "label_maps.apply": (
        lambda tx, workspace: label_maps.apply(tx, workspace, JOB, map_of({INTENT: {"billing": "stolen"}}, 1)),
        None,
    ),
    "label_maps.lock": (lambda tx, workspace: label_maps.lock(tx, workspace, JOB), NotFound),
    "label_maps.current": (lambda tx, workspace: label_maps.current(tx, workspace, JOB), None),
    "label_maps.latest_state": (state_of_none, (0, {})),
    "label_maps.version": (lambda tx, workspace: label_maps.version(tx, workspace, JOB, 1), NotFound),
    "label_maps.history": (lambda tx, workspace: label_maps.history(tx, workspace, JOB), []),
    "label_maps.canonical": (
        lambda tx, workspace: label_maps.canonical(tx, workspace, JOB),
        {kind: {} for kind in LabelKind},
    ),
    "label_maps.run_merges": (
        lambda tx, workspace: label_maps.run_merges(tx, workspace, JOB),
        {kind: {} for kind in LabelKind},
    ),
    "label_maps.session_counts": (
        lambda tx, workspace: label_maps.session_counts(tx, workspace, JOB, INTENT, reassigned=False),
        {},
    ),
    "label_maps.drop_second_look": (lambda tx, workspace: label_maps.drop_second_look(tx, workspace, JOB), None),
    "label_maps.begin_review": (lambda tx, workspace: label_maps.begin_review(tx, workspace, JOB, seconds=9), None),
    "label_maps.end_review": (lambda tx, workspace: label_maps.end_review(tx, workspace, JOB), None),
    "auto_analyze.counts": (
        lambda tx, workspace: runs.counts(tx, workspace, JOB),
        {"sessions": 0, "labelled": 0, "fallbacks": 0},
    ),
    "auto_analyze.label_counts": (lambda tx, workspace: runs.label_counts(tx, workspace, JOB), []),
    "auto_analyze.export_rows": (lambda tx, workspace: runs.export_rows(tx, workspace, JOB, after=-1, limit=10), []),
    "datasets.lock": (lambda tx, workspace: datasets.lock(tx, workspace, DATASET), True),
    "datasets.find_dataset": (lambda tx, workspace: datasets.find_dataset(tx, workspace, DATASET), None),
    "datasets.load_dataset": (lambda tx, workspace: datasets.load_dataset(tx, workspace, DATASET), NotFound),
    "auto_analyze.found_labels": (
        lambda tx, workspace: runs.found_labels(tx, workspace, JOB),
        {kind: set() for kind in LabelKind},
    ),
    "datasets.count_copies": (lambda tx, workspace: datasets.count_copies(tx, workspace, DATASET), 0),
    "datasets.session_facts": (lambda tx, workspace: datasets.session_facts(tx, workspace, DATASET), []),
}
# These create rows of the caller's workspace, with any id.
CREATES_ROWS = {
    "auto_analyze.store_labels",
    "auto_analyze.store_batches",
    "auto_analyze.store_merges",
    "label_maps.add",
    "label_maps.begin",
    "label_maps.record_merges",
    "label_maps.record_second_look",
    "datasets.save_chats",
}


class TestIsolation:
    def test_every_function_that_takes_a_workspace_is_checked(self):
        found = {
            f"{module.__name__.removeprefix('parley.storage.')}.{name}"
            for module in (runs, datasets, label_maps)
            for name, function in inspect.getmembers(module, inspect.iscoroutinefunction)
            if function.__module__ == module.__name__ and "workspace_id" in inspect.signature(function).parameters
        }
        assert found == set(TRESPASSES) | CREATES_ROWS

    @pytest.fixture
    async def theirs(self, run: Run) -> AsyncIterator[Run]:
        """A run with rows in every table. They must not have changed after the test."""
        await run.store({0: labels("billing", "approval"), 1: labels("refund")})
        await run.call(runs.store_batches, 2, [2, 2], 2)
        await run.merge(0, {"refund": "billing"})
        await run.apply()
        await run.call(label_maps.begin)
        before = await self.contents(run)
        yield run
        assert await self.contents(run) == before

    async def contents(self, run: Run) -> list[Any]:
        tables = (AutoRun, AutoSession, AutoBatch, AutoLabel, AutoMerge, AutoLabelMap, Dataset)
        async with run.database.transaction() as tx:
            queries = [select(table).where(col(table.workspace_id) == ACME) for table in tables]
            rows = [row.model_dump() for query in queries for row in (await tx.execute(query)).scalars()]
            return sorted(rows, key=str)

    async def test_another_workspace_finds_and_changes_nothing(self, theirs: Run):
        for name, (trespass, expected) in TRESPASSES.items():
            try:
                async with theirs.database.transaction() as tx:
                    answer = await trespass(tx, "globex")
            except ParleyError as error:
                answer = type(error)
            assert answer == expected, name

    async def test_the_same_ids_in_another_workspace_are_another_run(self, theirs: Run):
        mine = await (await Run(theirs.database, "globex").import_(12)).begin(list(range(12)))
        assert await mine.store({0: labels("billing"), 1: labels("theft")}) == 2
        await mine.merge(0, {"billing": "theft"})
        await mine.apply()
        assert await mine.call(runs.canonical_labels, INTENT, 10) == {"billing": "theft", "theft": "theft"}
        assert [row.canonical_intent for row in (await mine.sessions())[:2]] == ["theft", "theft"]
        assert (await mine.call(runs.load_work, [0]))[0].session == chat(0)
        assert len(await mine.exported()) == 12
