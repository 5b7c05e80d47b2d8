"""What a user said is removed from every table, and the money stays."""

from base64 import b64decode
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from parley.client.generate import generate_input
from parley.client.reading import read_session
from parley.domain.auto_analyze.contract import GIVEN_ROUND
from parley.domain.chat import ChatMessage, ChatSession, Containment
from parley.domain.conversation.context import RunningSummary
from parley.domain.conversation.contract import NewTurn
from parley.domain.conversation.memory import Changes
from parley.domain.phone.contract import NewCall
from parley.domain.requests import SpeechReply, SpokenWord, ToolCall, TranscriptionReply, Usage
from parley.domain.streaming import TextDelta
from parley.storage import (
    analyses,
    configuration,
    conversations,
    datasets,
    forgetting,
    generations,
    ledger,
    memories,
    phone_calls,
    sessions,
    streams,
    summaries,
    usage,
)
from parley.storage.forgetting import BY_AGE, CONTENT, RepliesPage
from parley.storage.ledger import REPLY
from parley.storage.retention import Old
from parley.storage.tables import (
    AutoLabel,
    AutoRun,
    AutoSession,
    CachedAnswer,
    Dataset,
    Generation,
    JournaledReply,
    StoredAnalysis,
    utc_now,
)
from tests.parts import SAMPLES
from tests.storage.ledger_fixture import COST, RATES, USER, LedgerFixture, reply
from tests.storage.test_memories import memory

SECRET, OTHER = "xyzzy", "bob"


async def fill(books: LedgerFixture, user: str, said: str) -> None:
    """Rows of a user in every table that has content of users."""
    answer = reply(said).model_copy(update={"tool_calls": (ToolCall(id="1", name="f", arguments=said),)})
    answered = await books.granted(f"asked-{user}", user_id=user, energy=0)
    await books.settle(answered, answer)
    heard = await books.granted(f"heard-{user}", user_id=user, energy=0)
    word = SpokenWord.model_validate({"text": said, "start": 0, "end": 1, "confidence": 1})
    spoken = await books.granted(f"spoken-{user}", user_id=user, energy=0)
    refused = await books.granted(f"refused-{user}", user_id=user, energy=0)
    await books.fail(refused, detail=f"a vendor quotes what it refuses: {said!r}")
    words = TranscriptionReply(words=(word,), usage=Usage(audio_seconds=1), model="vendor/model-1")
    async with books.database.transaction() as tx:
        settlement = ledger.Settlement(books.workspace, heard, words, COST, RATES)
        await ledger.settle(tx, settlement)
        audio = SpeechReply(
            audio=b64decode(f"{said}AAA") if said == SECRET else b"",
            sample_rate=1,
            usage=Usage(),
            model="vendor/model-1",
        )
        await ledger.settle(tx, ledger.Settlement(books.workspace, spoken, audio, COST, RATES))
        session = read_session(next(SAMPLES.glob("*.json"))).model_copy(update={"session_id": said, "user_id": user})
        session_sha256 = await sessions.save_session(tx, books.workspace, session)
        recording_sha256 = await sessions.save_recording(tx, books.workspace, said.encode(), 1.5)
        known: dict[str, Any] = {"workspace_id": books.workspace, "user_id": user, "workflow_id": f"workflow-{user}"}
        analysis = StoredAnalysis(
            **known,
            job_key=user,
            session_id=f"session of {user}",
            session_sha256=session_sha256,
            recording_sha256=recording_sha256,
        )
        await analyses.begin(tx, analysis)
        result = {"coaching": {"processed": True, "said": said}}
        await analyses.end(tx, books.workspace, user, "completed", result, f"{said!r} is not a speaker")
        asked: dict[str, Any] = {
            "request_id": f"{user}/generate",
            "job_key": user,
            "fingerprint": "f",
            "action": "ai_message",
        }
        tx.add(Generation(**known, **asked, outcome="completed", attempt_id=answered))
        expires = utc_now() + timedelta(hours=1)
        cached = {
            "key": user,
            "provider": "anthropic",
            "model": "m",
            "simulated": True,
            "action": "a",
            "cost_usd": COST,
        }
        what = {"context_sha256": "c", "question": said, "reply": answer.model_dump(mode="json"), "expires_at": expires}
        known.pop("workflow_id")
        tx.add(CachedAnswer(**known, **cached, **what, attempt_id=answered))
        await summaries.store(tx, books.workspace, f"beginning of {user}", 1, answered)
        await configuration.save(tx, books.workspace, "ai_settings", {"tone": said}, owner=user)
        await memories.apply(tx, books.workspace, user, Changes(added=(memory(said),)), answered)
        await streams.open_attempt(tx, books.workspace, f"workflow-{user}", "ws://127.0.0.1:1")
        await streams.store(tx, books.workspace, f"workflow-{user}", 1, streams.News(0, (TextDelta(text=said),)))
        asked_turn = generate_input(books.workspace, said, user_id=user)
        talk = (books.workspace, f"talk of {user}")
        await conversations.begin_turn(tx, NewTurn.of(talk[1], "turn", asked_turn))
        await conversations.start_turn(tx, *talk, "turn")
        context = await generations.save_prompt(tx, books.workspace, asked_turn.prompt)
        await conversations.end_turn(tx, *talk, "turn", outcome="completed", context_sha256=context.sha256)
        ends = {"number": "+15550100002", "caller": said, "caller_name": said, "parameters": {"name": said}}
        call = NewCall(workspace_id=books.workspace, call_sid=f"CA{user}", user_id=user, language="en-US", **ends)
        await phone_calls.begin(tx, call)
        await phone_calls.explain(tx, books.workspace, call.call_sid, "transfer", {"said": said})
        chat = ChatSession(
            session_id="chat",
            user_id=user,
            containment=Containment.AGENT,
            messages=(ChatMessage(role="user", text=said),),
        )
        dataset_id = f"dataset of {user}"
        tx.add(Dataset(workspace_id=books.workspace, dataset_id=dataset_id, name="chats", sessions=1, tokens=1))
        await datasets.save_chats(tx, books.workspace, dataset_id, [(0, chat, 1)])
        run: dict[str, Any] = {"workspace_id": books.workspace, "job_key": f"run of {user}"}
        settings: dict[str, Any] = {"settings": {}, "status": "completed"}
        tx.add(AutoRun(**run, workflow_id=f"auto-{user}", dataset_id=dataset_id, user_id="operator", **settings))
        tx.add(AutoSession(**run, ordinal=0, position=0, condensed=said, summary=said, intent=f"label of {user}"))
        evidence: dict[str, Any] = {"meaning": said, "example": said, "definition": said, "examples": [said]}
        tx.add(AutoLabel(**run, kind="intent", label=f"label of {user}", first_round=1, **evidence))
        await conversations.save_summary(tx, *talk, RunningSummary(text=said, through=1, tokens=1))


async def contents(books: LedgerFixture) -> dict[str, str]:
    """The rows of each table, as text; bytes as text."""
    async with books.database.transaction() as tx:
        tables = (await tx.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))).scalars().all()
        await tx.execute(text("SET LOCAL bytea_output = 'escape'"))
        return {
            table: "\n".join((await tx.execute(text(f"SELECT x::text FROM {table} x ORDER BY 1"))).scalars())
            for table in tables
        }


@pytest.fixture
async def filled(books: LedgerFixture) -> LedgerFixture:
    await books.open(user=OTHER)
    await fill(books, USER, SECRET)
    await fill(books, OTHER, "of bob")
    return books


async def test_no_table_has_anything_that_the_user_said(filled: LedgerFixture):
    holding = {table for table, rows in (await contents(filled)).items() if SECRET in rows}
    assert holding == {*CONTENT, "memories"} - {"summaries", "streams"}
    async with filled.database.transaction() as tx:
        counts = await forgetting.forget_user(tx, filled.workspace, USER)
    assert counts == {**dict.fromkeys(CONTENT, 1), "memories": 1, "replies": 3}
    assert [table for table, rows in (await contents(filled)).items() if SECRET in rows] == []
    # What is left can still be read.
    for row in await filled.all(JournaledReply):
        REPLY.validate_python(row.payload)


async def test_the_money_and_other_users_stay(filled: LedgerFixture):
    before, day = await contents(filled), await filled.day()
    async with filled.database.transaction() as tx:
        spent = await usage.costs(tx, filled.workspace, user_id=USER)
        await forgetting.forget_user(tx, filled.workspace, USER)
        assert await usage.costs(tx, filled.workspace, user_id=USER) == spent
    after = await contents(filled)
    assert {table for table in before if before[table] != after[table]} == {*CONTENT, "memories"}
    assert await filled.day() == day
    for table in (*CONTENT, "memories"):
        assert [row for row in before[table].split("\n") if "bob" in row] == [
            row for row in after[table].split("\n") if "bob" in row
        ]
    assert await filled.disagreements() == []


async def test_forgotten_again_nothing_is_left_to_forget(filled: LedgerFixture):
    for expected in (True, False):
        async with filled.database.transaction() as tx:
            counts = await forgetting.forget_user(tx, filled.workspace, USER)
        assert bool(counts) is expected


def test_all_of_it_is_about_one_workspace_and_one_user():
    for table, content in CONTENT.items():
        assert content.statement(table, content.of_user).count(":workspace") >= 1, table
        assert ":user" in content.of_user, table


def test_every_old_content_is_of_before_a_time():
    assert set(CONTENT) - set(BY_AGE) == {"attempts", "configuration", "replies"}
    for table in BY_AGE:
        assert ":before" in CONTENT[table].old, table


async def forget_old(books: LedgerFixture, days: float, running: Sequence[str] = ()) -> dict[str, int]:
    """Remove what is older than so many days, one row at a time."""
    old, counts = Old(utc_now() - timedelta(days=days), running), Counter[str]()
    for table in BY_AGE:
        while True:
            async with books.database.transaction() as tx:
                changed = await forgetting.forget_old(tx, books.workspace, table, old, limit=1)
            counts[table] += changed
            if not changed:
                break
    counts["replies"] = sum(page.emptied for page in await forget_old_replies(books, old))
    return dict(counts)


async def forget_old_replies(books: LedgerFixture, old: Old, *, limit: int = 1) -> list[RepliesPage]:
    """Empty the old replies, page by page."""
    pages: list[RepliesPage] = []
    while not pages or pages[-1].last is not None:
        async with books.database.transaction() as tx:
            after = pages[-1] if pages else None
            pages.append(await forgetting.forget_old_replies(tx, books.workspace, old, after=after, limit=limit))
    return pages


async def test_of_before_a_time_no_table_has_anything_that_was_said_and_the_money_stays(filled: LedgerFixture):
    await filled.run("UPDATE paid_requests SET expires_at = clock_timestamp() - interval '1 minute'")
    assert not any((await forget_old(filled, days=1)).values())
    before, day = await contents(filled), await filled.day()
    counts = await forget_old(filled, days=0)
    after = await contents(filled)
    assert {table for table, rows in after.items() if SECRET in rows} == {"configuration", "memories"}
    emptied = {table for table in before if before[table] != after[table]} - {"purge_marks"}
    assert emptied == {*BY_AGE, "replies", "attempts"} == {*counts, "attempts"}
    assert await filled.day() == day
    assert await filled.disagreements() == []
    assert not any((await forget_old(filled, days=0)).values())


async def test_what_a_running_job_may_need_stays(filled: LedgerFixture):
    await filled.run("UPDATE session_analyses SET status = 'running'")
    await filled.run("UPDATE auto_runs SET status = 'running'")
    counts = await forget_old(filled, days=0)
    kept = ("sessions", "recordings", "session_analyses", "auto_labels", "auto_sessions", "chat_sessions", "replies")
    assert {table: counts[table] for table in kept} == dict.fromkeys(kept, 0)


async def replied(books: LedgerFixture, *steps: str) -> None:
    """Settled requests that have expired."""
    for step in steps:
        await books.settle(await books.granted(step), reply(SECRET))
    await books.run("UPDATE paid_requests SET expires_at = clock_timestamp() - interval '1 minute'")


async def test_replies_that_are_emptied_are_not_read_again(books: LedgerFixture):
    await books.open()
    await replied(books, *(f"step {number}" for number in range(5)))
    first = await forget_old_replies(books, Old(utc_now(), ()), limit=2)
    assert [(page.looked_at, page.emptied) for page in first] == [(2, 2), (2, 2), (1, 1)]
    await replied(books, "step of the next day")
    second = await forget_old_replies(books, Old(utc_now(), ()), limit=2)
    assert [(page.looked_at, page.emptied) for page in second] == [(1, 1)]
    third = await forget_old_replies(books, Old(utc_now(), ()), limit=2)
    assert [(page.looked_at, page.emptied) for page in third] == [(0, 0)]
    assert SECRET not in (await contents(books))["replies"]


async def test_a_purge_that_was_cut_off_goes_on_where_it_was(books: LedgerFixture):
    await books.open()
    await replied(books, "one", "two", "three")
    old = Old(utc_now(), ())
    async with books.database.transaction() as tx:
        await forgetting.forget_old_replies(tx, books.workspace, old, after=None, limit=2)
    # The last one of the page is looked at again: another may have begun at the same time.
    [page] = await forget_old_replies(books, old, limit=9)
    assert (page.looked_at, page.emptied) == (2, 1)


@pytest.mark.parametrize("needed", ["running", "open", "not expired"])
async def test_a_reply_that_was_needed_is_emptied_later(books: LedgerFixture, needed: str):
    await books.open()
    if needed == "open":
        attempt = await books.granted("needed")
    else:
        await replied(books, "needed")
    await replied(books, "one", "two")
    if needed == "not expired":
        await books.run("UPDATE paid_requests SET expires_at = 'infinity' WHERE request_id LIKE '%needed'")
    await books.run("UPDATE paid_requests SET workflow_id = 'running' WHERE request_id LIKE '%needed'")
    old = Old(utc_now(), ["running"] if needed == "running" else ())
    assert sum(page.emptied for page in await forget_old_replies(books, old)) == 2
    if needed == "open":
        await books.settle(attempt, reply(SECRET))
    await books.run("UPDATE paid_requests SET expires_at = clock_timestamp() - interval '1 minute'")
    assert sum(page.emptied for page in await forget_old_replies(books, Old(utc_now(), ()))) == 1
    assert SECRET not in (await contents(books))["replies"]


async def test_a_run_that_goes_on_from_another_one_forgets_its_evidence_too(filled: LedgerFixture):
    async with filled.database.transaction() as tx:
        given = {"label": f"label of {USER}", "first_round": GIVEN_ROUND, "example": SECRET}
        tx.add(AutoLabel(workspace_id=filled.workspace, job_key="next run", kind="intent", **given))
    async with filled.database.transaction() as tx:
        await forgetting.forget_user(tx, filled.workspace, USER)
    assert SECRET not in (await contents(filled))["auto_labels"]


async def test_another_workspace_keeps_what_was_said(filled: LedgerFixture):
    before = await contents(filled)
    async with filled.database.transaction() as tx:
        for table in BY_AGE:
            assert await forgetting.forget_old(tx, "globex", table, Old(utc_now(), ()), limit=10) == 0
        page = await forgetting.forget_old_replies(tx, "globex", Old(utc_now(), ()), after=None, limit=10)
        assert (page.looked_at, page.emptied) == (0, 0)
    assert await contents(filled) == before
