"""The ids, the terms and the outcomes of a conversation's turns."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from parley.client.generate import generate_input
from parley.domain.conversation.contract import (
    SENTENCES,
    ComposeStep,
    Ended,
    NewTurn,
    outcome_of,
    sentence_for,
    turn_job,
    turn_job_id,
    turn_prompt,
    turn_request_id,
    workflow_id,
    workflows_of,
)
from parley.domain.generate.contract import GenerateResult, Meta, Refusal, Refused
from parley.domain.phone.contract import workflow_id as phone_call_id
from parley.domain.requests import Finish, Message

ASKED = generate_input(
    "acme", "How?", user_id="ann", action="ai_analysis", temperature=0.3, json_object=True, max_tokens=50
)
STEP = ComposeStep(
    workspace_id="acme", conversation_id="c", user_id="ann", turn_id="t", at=datetime(2026, 1, 1, tzinfo=UTC)
)


def test_a_turn_belongs_to_the_workflow_of_its_conversation_or_of_its_phone_call():
    assert workflows_of(turn_job_id("acme", "c", "t")) == (workflow_id("acme", "c"), phone_call_id("acme", "c"))
    assert (workflow_id("acme", "c"), phone_call_id("acme", "c")) == ("conversation/acme/c", "phone-call/acme/c")
    assert workflows_of("generate/acme/key") == ("generate/acme/key",)


def test_the_generation_of_a_turn_is_asked_as_the_client_asked():
    turn = NewTurn.of("c", "t", ASKED)
    prompt = turn_prompt(turn.terms, ASKED.prompt.messages)
    job = turn_job(STEP, turn.terms, turn.fingerprint, prompt)
    assert job.input == ASKED
    assert (job.fingerprint, job.is_turn) == (ASKED.fingerprint(), True)
    assert job.request_id == turn_request_id("acme", "c", "t")


def test_the_fingerprint_of_a_turn_does_not_depend_on_its_context():
    turn = NewTurn.of("c", "t", ASKED)
    longer = turn_prompt(turn.terms, (Message(role="user", content="before"), *ASKED.prompt.messages))
    assert turn_job(STEP, turn.terms, turn.fingerprint, longer).fingerprint == ASKED.fingerprint()


@pytest.mark.parametrize("name", ["", " ", "a/b", "x" * 201, "é" * 101, "nul\0", "half \ud800"])
def test_an_id_that_cannot_be_part_of_a_workflow_id_is_refused(name: str):
    with pytest.raises(ValidationError):
        NewTurn.of(name, "t", ASKED)
    with pytest.raises(ValidationError):
        NewTurn.of("c", name, ASKED)


def test_a_turn_whose_readers_left_is_not_part_of_the_conversation():
    meta = Meta(request_id="r", finish=Finish.CANCELLED)
    assert outcome_of(GenerateResult(success=True, content="Half", meta=meta)) == (Ended.CANCELLED, "")


def test_a_refusal_is_the_reason():
    refusal = Refusal(code=Refused.BUDGET_EXHAUSTED, message="no")
    result = GenerateResult(success=False, refusal=refusal, meta=Meta(request_id="r"))
    assert outcome_of(result) == (Ended.REFUSED, "budget_exhausted")


def test_every_refusal_has_its_own_sentence():
    assert {*SENTENCES} == {code.value for code in Refused}
    assert len({sentence_for(code.value) for code in Refused} | {sentence_for("ProviderUnavailable")}) == 6
