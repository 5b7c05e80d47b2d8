"""`FakeClient`: the signatures, checks and errors of `Client`, without servers."""

import inspect
import json
from pathlib import Path

import pytest

from parley import (
    Client,
    ConversationClosed,
    ConversationHandle,
    GenerateResult,
    IdempotencyConflict,
    InvalidInput,
    JobFailed,
    MemoryChanged,
    Meta,
    NotFound,
    Refusal,
    Refused,
    TextDelta,
)
from parley.client.knowledge import Knowledge
from parley.client.phone import Phone
from parley.domain.auto_analyze.contract import ExportedSession, LabelKind
from parley.domain.conversation.contract import Ended
from parley.domain.phone.contract import CallStatus, PhoneTurn
from parley.domain.requests import Provider
from parley.testing import FakeClient
from parley.testing.conversations import FakeConversationHandle
from parley.testing.knowledge import FakeKnowledge
from parley.testing.phone import FakePhone
from tests.parts import SAMPLES

SCHEMA = {"type": "object", "properties": {"team": {"type": "string"}}, "required": ["team"]}
SESSION = json.loads((SAMPLES / "gatekeeper-dental-clinic.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name",
    [
        *("generate", "generate_stream", "conversation", "find_conversation", "analyze", "auto_analyze"),
        *("import_chats", "check_auto_analyze_options", "estimate_auto_analyze", "labelled_sessions"),
    ],
)
def test_signatures_are_those_of_the_client(name: str):
    fake, real = (inspect.signature(getattr(kind, name), eval_str=True) for kind in (FakeClient, Client))
    assert fake == real


@pytest.mark.parametrize(
    "name",
    [
        "say",
        "stream",
        "follow",
        "state",
        "cost",
        "context",
        "history",
        "export",
        "correct_memory",
        "forget_memory",
        "close",
    ],
)
def test_signatures_of_a_conversation_are_those_of_the_client(name: str):
    fake, real = (
        inspect.signature(getattr(kind, name), eval_str=True) for kind in (FakeConversationHandle, ConversationHandle)
    )
    assert fake == real


@pytest.mark.parametrize(("fake", "real"), [(FakePhone, Phone), (FakeKnowledge, Knowledge)])
def test_phone_and_knowledge_have_every_method_of_the_client(fake: type, real: type):
    for name, method in inspect.getmembers(real, inspect.isfunction):
        if not name.startswith("_") and name in vars(real) and name != "add_file":
            assert name in vars(fake), name
            assert inspect.signature(getattr(fake, name), eval_str=True) == inspect.signature(method, eval_str=True)


async def test_phone_calls_are_dialled_and_shown_without_a_telephone():
    client = FakeClient("acme")
    with pytest.raises(NotFound):
        await client.phone.dial("+15550100009", from_number="+15550100002")
    with pytest.raises(InvalidInput):
        await client.phone.set_number("+15550100002", {"language": "?"})
    await client.phone.set_number("+15550100002", {"language": "es-ES"})
    with pytest.raises(InvalidInput):
        await client.phone.dial("5550100009", from_number="+15550100002")
    sid = await client.phone.dial("+15550100009", from_number="+15550100002", parameters={"order": "7"})
    assert client.phone.dialled == [("+15550100009", "+15550100002", {"order": "7"})]
    [call] = await client.phone.calls(is_open=True)
    assert (call.call_sid, call.status, call.language, call.parameters) == (sid, "queued", "es-ES", {"order": "7"})
    turn = PhoneTurn(
        turn_id=f"{sid}:1",
        number=1,
        text="Hola",
        answer="Hola, ¿qué tal?",
        outcome=Ended.COMPLETED,
        reason="",
        request_id="r",
        created_at=call.started_at,
        ended_at=call.started_at,
        heard="Hola,",
    )
    client.phone.add(call.model_copy(update={"status": CallStatus.COMPLETED, "ended_at": call.started_at}), [turn])
    assert (await client.phone.call(sid)).status == "completed"
    assert await client.phone.turns(sid) == (turn,)
    assert await client.phone.calls(is_open=True) == ()
    await client.phone.remove_number("+15550100002")
    assert await client.phone.numbers() == ()


async def test_documents_are_found_by_their_words():
    client = FakeClient("acme")
    added = await client.knowledge.add("# Hours\n\nWe open at nine.", name="hours.md")
    assert (added.outcome, added.document.title) == ("added", "Hours")
    await client.knowledge.add("Parking is behind the building.", name="parking.txt")
    assert (await client.knowledge.add("# Hours\n\nWe open at nine.", name="hours.md")).outcome == "unchanged"
    assert [one.name for one in await client.knowledge.search("When do you open?")] == ["hours.md"]
    assert await client.knowledge.search("Salary") == ()
    with pytest.raises(InvalidInput):
        await client.knowledge.search(" ")
    await client.knowledge.remove("hours.md")
    assert [one.name for one in await client.knowledge.list()] == ["parking.txt"]
    with pytest.raises(NotFound):
        await client.knowledge.remove("hours.md")


async def test_a_conversation_knows_what_was_said_and_what_is_remembered():
    client = FakeClient("acme", answers=["Woof.", "Rex."])
    memory = client.memory.add("ann", "lives_in", "Bergen")
    talk = client.conversation("talk", user_id="ann")
    await talk.say("My dog is called Rex.", turn_id="one")
    await talk.correct_memory(memory.id, "Oslo")
    with pytest.raises(MemoryChanged):
        await talk.correct_memory(memory.id, "Paris")
    await talk.set_preferences({"tone": "dry"})
    async with talk.stream("What is it called?") as stream:
        deltas = [delta.text async for delta in stream if isinstance(delta, TextDelta)]
        assert (deltas, (await stream.result()).content) == (["Rex."], "Rex.")
    context = [message.text for message in await talk.context()]
    assert context[1:3] == ["My dog is called Rex.", "Woof."]
    assert "dry" in context[0] and "lives in Oslo" in context[3] and context[4] == "What is it called?"
    assert client.requests[1].prompt.messages == await talk.context()
    assert [(turn.number, turn.text, turn.answer) for turn in await talk.history(after=1)] == [
        (2, "What is it called?", "Rex.")
    ]
    assert ((await talk.state()).turns, (await talk.export()).turns) == (2, await talk.history())
    assert (await client.find_conversation("talk")).user_id == "ann"


async def test_a_turn_is_answered_once_and_a_closed_conversation_takes_none():
    client = FakeClient(answers=["first"])
    talk = client.conversation("talk", user_id="ann")
    for read in (talk.state, talk.history, talk.close):
        with pytest.raises(NotFound):
            await read()
    first = await talk.say("Hello?", turn_id="one")
    assert await talk.say("Hello?", turn_id="one") == first
    with pytest.raises(IdempotencyConflict):
        await talk.say("Goodbye?", turn_id="one")
    with pytest.raises(InvalidInput):
        await talk.say("")
    with pytest.raises(NotFound):
        await client.conversation("talk", user_id="bob").history()
    await talk.close()
    with pytest.raises(ConversationClosed):
        await talk.say("And now?")
    async with talk.follow("one") as stream:
        assert await stream.result() == first


async def test_a_refused_turn_has_a_sentence_and_is_in_no_later_context():
    refusal = Refusal(code=Refused.INSUFFICIENT_ENERGY, message="0 left")
    refused = GenerateResult(success=False, refusal=refusal, meta=Meta(request_id="r"))
    client = FakeClient(answers=[refused, "second"])
    talk = client.conversation("talk", user_id="ann")
    result = await talk.say("Hello?")
    assert (result.success, result.reason, "energy" in (result.content or "")) == (False, "insufficient_energy", True)
    await talk.say("And now?")
    assert [message.text for message in await talk.context()] == ["And now?"]


async def test_answers_come_in_order_and_requests_are_recorded():
    client = FakeClient("acme", answers=["first", {"team": "billing"}])
    assert (await client.generate("Hello?", user_id="ann")).content == "first"
    assert (await client.generate("Which team?", user_id="ann", response_schema=SCHEMA)).parsed == {"team": "billing"}
    assert [request.prompt.messages[0].content for request in client.requests] == ["Hello?", "Which team?"]
    assert {request.workspace_id for request in client.requests} == {"acme"}


async def test_a_key_is_answered_once():
    client = FakeClient(answers=["first"])
    answers = [await client.generate("Hello?", user_id="ann", key="k") for _ in range(2)]
    assert answers[0] == answers[1]
    with pytest.raises(IdempotencyConflict):
        await client.generate("Goodbye?", user_id="ann", key="k")


async def test_refusals_and_errors_are_scripted():
    refusal = Refusal(code=Refused.BUDGET_EXHAUSTED, message="the day's cap is spent")
    refused = GenerateResult(success=False, refusal=refusal, meta=Meta(request_id="r"))
    client = FakeClient(answers=[refused, JobFailed("ProviderUnavailable", "all are down")])
    assert (await client.generate("Hello?", user_id="ann")).refusal == refusal
    with pytest.raises(JobFailed, match="all are down"):
        await client.generate("Hello?", user_id="ann")


async def test_invalid_arguments_are_refused_as_the_client_refuses_them():
    client = FakeClient(answers=["unused"])
    with pytest.raises(InvalidInput, match="max_tokens"):
        await client.generate("Hello?", user_id="ann", max_tokens=0)
    with pytest.raises(InvalidInput):
        await client.analyze({"session_id": "s"})
    with pytest.raises(InvalidInput, match="streams"):
        await client.auto_analyze("dataset", user_id="ann", streams=0)


async def test_a_request_without_a_scripted_answer_fails_the_test():
    with pytest.raises(AssertionError, match="no answer is scripted for request 1"):
        await FakeClient().generate("Hello?", user_id="ann")


async def test_an_answer_that_does_not_follow_the_schema_fails_the_test():
    with pytest.raises(AssertionError, match="does not follow the response schema"):
        await FakeClient(answers=["no JSON"]).generate("Which team?", user_id="ann", response_schema=SCHEMA)


async def test_an_analysis_is_rule_based_unless_scripted():
    client = FakeClient(analyses=[JobFailed("Cancelled", "the job was cancelled")])
    with pytest.raises(JobFailed):
        await (await client.analyze(SESSION)).result()
    job = await client.analyze(SESSION)
    report = await job.result()
    assert report.analysis is not None
    assert report.analysis.coaching.fallback
    assert [session.session_id for session in client.sessions] == [SESSION["session_id"]] * 2


async def test_a_labelling_run_ends_at_once():
    job = await FakeClient().auto_analyze("dataset", user_id="ann")
    assert (await job.result()).status == "completed"


async def test_a_labelling_run_that_has_ended_refuses_what_an_ended_run_refuses():
    job = await FakeClient().auto_analyze("dataset", user_id="ann")
    for change in (job.pause(), job.resume(), job.finish(), job.set_streams(2)):
        with pytest.raises(NotFound, match="does not run"):
            await change
    with pytest.raises(InvalidInput, match="streams"):
        await job.set_streams(0)
    with pytest.raises(InvalidInput, match="does not wait for a review"):
        await job.approve()
    for read in (job.overview(), job.examples(LabelKind.INTENT, "a"), job.labels.show(), job.labels.rename("a", "b")):
        with pytest.raises(NotImplementedError, match="with the fixture parley_client"):
            await read


async def test_chats_are_imported_estimated_and_exported_in_memory(tmp_path: Path):
    path = tmp_path / "chats.jsonl"
    message = {"role": "user", "text": "My parcel is late", "time": None}
    session = {"session_id": "s", "user_id": "u", "containment": "agent", "messages": [message]}
    path.write_text("".join(json.dumps({**session, "session_id": one}) + "\n" for one in "abc"), encoding="utf-8")
    labelled = ExportedSession.model_validate(
        {**dict.fromkeys(ExportedSession.model_fields), "session_id": "a", "user_id": "u", "containment": "agent"}
        | {"intent": "late parcel", "fallback": False, "by_rule": False}
    )
    client = FakeClient("acme", exports=[[labelled]])
    steps: list[int] = []
    imported, again = [await client.import_chats(path, on_progress=steps.append) for _ in range(2)]
    assert (imported.sessions, imported.known, again.known, steps) == (3, False, True, [3, 3])
    for source in (path, imported):
        estimate = await client.estimate_auto_analyze(source, user_id="ann", provider=Provider.OPENAI)
        assert estimate is not None
        assert (estimate.sessions, estimate.copies, estimate.minutes) == (3, 2, None)
        assert estimate.estimated_usd > 0
    scripted, plain = [await client.auto_analyze(imported.dataset_id, user_id="ann", run_name=name) for name in "xy"]
    assert [one async for one in client.labelled_sessions(scripted.job_key)] == [labelled]
    found = [one async for one in client.labelled_sessions(plain.id)]
    assert [(one.session_id, one.intent) for one in found] == [("a", None), ("b", None), ("c", None)]
    with pytest.raises(NotFound):
        await anext(client.labelled_sessions("another"))
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidInput, match="line 1"):
        await client.import_chats(path)


async def test_an_answer_is_streamed_as_one_delta():
    client = FakeClient(answers=["It is Tuesday."])
    async with client.generate_stream("Which day is it?", user_id="ann") as stream:
        assert [delta async for delta in stream] == [TextDelta(text="It is Tuesday.")]
        assert (await stream.result()).content == "It is Tuesday."
    with pytest.raises(RuntimeError, match="async with"):
        await client.generate_stream("Which day is it?", user_id="ann").result()
