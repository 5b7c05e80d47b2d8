"""`Generate` through its public API, the typed client, on real parts."""

import asyncio
import base64
import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory
from temporalio.common import TypedSearchAttributes

from parley import Backend, Client, visibility
from parley.client.backend import temporal_errors
from parley.client.generate import generate, generate_input
from parley.domain.budgets import Period
from parley.domain.errors import ErrorKind, IdempotencyConflict, InvalidInput, JobFailed, NotFound, UnpricedModel
from parley.domain.generate.contract import (
    WORKFLOW,
    Cached,
    CachePolicy,
    GenerateInput,
    GenerateResult,
    OnRateLimit,
    Prompt,
    Refused,
    workflow_id,
)
from parley.domain.queues import WORKFLOWS
from parley.domain.requests import Finish, Message, Provider
from parley.storage.tables import Generation
from tests.parts import SimulatorAdmin
from tests.storage.ledger_fixture import LedgerFixture
from tests.workflows.modes import BOTH_MODES, InlineClient, cancel, durable_only, in_workspace

pytestmark = [pytest.mark.usefixtures("worker"), BOTH_MODES]

USER = "ann"
QUESTION = "What does the export to CSV contain?"
CHEAP = "gpt-4o-mini"
VERDICT = {
    "type": "object",
    "properties": {"mood": {"type": "string"}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}
TALK = [{"role": ("user", "assistant")[turn % 2], "content": f"turn {turn}: about the invoice"} for turn in range(31)]


@pytest.fixture
async def pro(client: Client) -> Client:
    """A user of a tier that may use every model."""
    await client.set_tier(USER, "pro")
    return client


async def histories(client: Client) -> list[WorkflowHistory]:
    query = f"ParleyWorkspace = '{client.workspace_id}' AND WorkflowType = '{WORKFLOW}'"
    return [
        await client.temporal.get_workflow_handle(one.id, run_id=one.run_id).fetch_history()
        async for one in client.temporal.list_workflows(query)
    ]


async def timer_fired(client: Client) -> bool | None:
    """Whether a timer of the only generation fired; None for an inline one, which has no history."""
    if isinstance(client, InlineClient):
        return None
    [history] = await histories(client)
    return any(event.event_type == EventType.EVENT_TYPE_TIMER_FIRED for event in history.events)


async def rows(client: Client) -> list[Generation]:
    async with client.database.transaction() as tx:
        from sqlalchemy import select  # noqa: PLC0415

        return list((await tx.execute(select(Generation).order_by(Generation.created_at))).scalars())


async def agrees(client: Client) -> bool:
    return await client.audit() == []


async def marks_of(client: Client, job_id: str) -> TypedSearchAttributes:
    return (await client.temporal.get_workflow_handle(job_id).describe()).typed_search_attributes


WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASKED_FOR_WEATHER = {"role": "user", "content": "What is the weather in Oslo?"}


class TestTools:
    """Generations that call tools, see images, or have options that not every model accepts."""

    async def test_a_tool_is_called_and_its_result_is_answered(self, client: Client) -> None:
        calling = await client.generate([ASKED_FOR_WEATHER], user_id=USER, tools=[WEATHER], cache=CachePolicy.SIMILAR)
        [call] = calling.tool_calls
        assert (calling.success, calling.content, calling.meta.finish) == (True, "", Finish.TOOL_CALLS)
        assert (call.name, set(json.loads(call.arguments))) == ("get_weather", {"city"})
        chat = [
            ASKED_FOR_WEATHER,
            {"role": "assistant", "content": calling.content, "tool_calls": calling.tool_calls},
            {"role": "tool", "content": "Rain, 6 degrees.", "tool_call_id": call.id},
        ]
        answer = await client.generate(chat, user_id=USER, tools=[WEATHER])
        assert "Rain, 6 degrees." in (answer.content or "")
        assert await agrees(client)

    async def test_a_call_is_not_given_again_from_the_cache_and_an_answer_is(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        for tool_choice in ("required", "required", "none", "none"):
            asked = {"tools": [WEATHER], "tool_choice": tool_choice, "cache": CachePolicy.EXACT}
            result = await client.generate([ASKED_FOR_WEATHER], user_id=USER, **asked)
        assert result.meta.cached is Cached.EXACT
        assert len(await simulator.billed()) == 3

    async def test_a_call_takes_the_place_of_an_answer_by_a_schema(self, client: Client) -> None:
        result = await client.generate(
            [ASKED_FOR_WEATHER], user_id=USER, tools=[WEATHER], tool_choice="required", response_schema=VERDICT
        )
        assert (len(result.tool_calls), result.parsed, result.meta.attempts) == (1, None, 1)

    @durable_only("measures the history")
    async def test_long_calls_stay_out_of_the_history(self, client: Client) -> None:
        fields = {f"field_{number}": {"type": "string"} for number in range(120)}
        tool = {**WEATHER, "parameters": {"type": "object", "properties": fields, "required": list(fields)}}
        result = await client.generate([ASKED_FOR_WEATHER], user_id=USER, tools=[tool], max_tokens=20_000)
        [call] = result.tool_calls
        assert result.stored and set(json.loads(call.arguments)) == set(fields)
        [history] = await histories(client)
        assert max(event.ByteSize() for event in history.events) < 4000

    @durable_only("measures the history")
    async def test_an_image_stays_out_of_the_history(self, client: Client, simulator: SimulatorAdmin) -> None:
        data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(300_000)).decode()
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image", "media_type": "image/png", "data": data}]
        result = await client.generate([{"role": "user", "content": parts}], user_id=USER)
        assert result.content
        [history] = await histories(client)
        assert max(event.ByteSize() for event in history.events) < 4000

    async def test_an_option_that_the_model_does_not_accept_is_dropped_and_named(self, pro: Client) -> None:
        result = await pro.generate(QUESTION, user_id=USER, seed=7, json_object=True, model="claude-sonnet-4-6")
        assert result.meta.dropped == ("seed", "json_object")
        assert isinstance(result.parsed, dict)

    async def test_a_model_without_eyes_is_passed_over(self, pro: Client) -> None:
        picture = {"role": "user", "content": [{"type": "image", "url": "https://example.com/lift.png"}]}
        result = await pro.generate([picture], user_id=USER, provider=Provider.OPENAI, model="gpt-3.5-turbo")
        assert result.meta.model != "gpt-3.5-turbo"
        assert "gpt-3.5-turbo accepts no images" in result.meta.reason

    async def test_a_stop_text_ends_the_answer(self, client: Client) -> None:
        whole = (await client.generate(QUESTION, user_id=USER)).content or ""
        result = await client.generate(QUESTION, user_id=USER, stop=[whole.split()[3]])
        assert result.content and whole.startswith(result.content) and len(result.content) < len(whole)


class TestAnswers:
    async def test_an_answer_has_its_provider_reason_and_cost(self, client: Client, simulator: SimulatorAdmin) -> None:
        result = await client.generate(QUESTION, user_id=USER)
        meta = result.meta
        assert result.success and result.content
        assert (meta.provider, meta.model, meta.finish) == (Provider.OPENAI, CHEAP, Finish.STOP)
        assert meta.simulated and meta.answered_by.startswith("simulator/")
        assert (meta.energy_charged, meta.energy_left, meta.attempts) == (1, 99, 1)
        assert meta.reason == "first choice of the free tier"
        costs = await client.costs()
        assert meta.cost_usd == costs.confirmed_usd > 0
        assert costs.uncertain_usd == 0
        [request] = await simulator.billed()
        assert meta.usage.total_tokens == request["input_tokens"] + request["output_tokens"]
        assert await agrees(client)

    async def test_the_pro_tier_gets_the_better_model(self, pro: Client) -> None:
        result = await pro.generate(QUESTION, user_id=USER)
        assert (result.meta.provider, result.meta.model) == (Provider.ANTHROPIC, "claude-sonnet-4-6")

    async def test_a_schema_gives_a_parsed_value(self, client: Client) -> None:
        result = await client.generate("How do I sound?", user_id=USER, response_schema=VERDICT)
        assert set(result.parsed) == {"mood", "sure"}

    async def test_a_response_schema_of_none_is_accepted(self, client: Client) -> None:
        result = await client.generate(QUESTION, user_id=USER, response_schema=None)
        assert result.content and result.parsed is None

    async def test_a_reply_that_breaks_the_schema_is_retried_and_charged_once(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("malformed", provider="openai")
        result = await client.generate("How do I sound?", user_id=USER, response_schema=VERDICT)
        assert result.parsed and (result.meta.attempts, result.meta.energy_left) == (2, 99)
        assert result.meta.cost_usd == (await client.costs()).confirmed_usd
        assert len(await simulator.billed()) == 2
        assert await agrees(client)

    async def test_a_schema_that_no_reply_follows_is_an_error(self, client: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("malformed", times=None)
        with pytest.raises(JobFailed, match="no answer follows the schema"):
            await client.generate("How do I sound?", user_id=USER, response_schema=VERDICT)
        [row] = await rows(client)
        assert (row.outcome, row.reason) == ("failed", "MalformedReply")

    async def test_long_prompts_and_answers_stay_out_of_the_history(self, client: Client) -> None:
        long = [{"role": "user", "content": "the invoice is wrong. " * 2000}]
        schema = {
            "type": "object",
            "properties": {f"field_{number}": {"type": "string"} for number in range(120)},
            "required": [f"field_{number}" for number in range(120)],
            "additionalProperties": False,
        }
        result = await client.generate(long, user_id=USER, response_schema=schema, max_tokens=20_000)
        assert result.stored and result.content and len(result.parsed) == 120
        recorded = await histories(client)
        assert len(recorded) == (0 if isinstance(client, InlineClient) else 1)
        assert all(event.ByteSize() < 4000 for history in recorded for event in history.events)

    @durable_only("counts the activities of the history")
    async def test_it_takes_at_most_two_activities(self, client: Client) -> None:
        await client.generate(QUESTION, user_id=USER)
        [history] = await histories(client)
        kinds = Counter(event.event_type for event in history.events)
        scheduled = kinds[EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED] + kinds[EventType.EVENT_TYPE_MARKER_RECORDED]
        assert scheduled == 2

    @durable_only("starts the workflow")
    async def test_it_can_be_started_by_name(self, client: Client) -> None:
        asked = {
            "workspace_id": client.workspace_id,
            "user_id": USER,
            "prompt": {"messages": [{"role": "user", "content": QUESTION}]},
        }
        result: GenerateResult = await client.temporal.execute_workflow(
            WORKFLOW, asked, id=f"by-name-{client.workspace_id}", task_queue=WORKFLOWS, result_type=GenerateResult
        )
        assert result.content
        marks = await marks_of(client, f"by-name-{client.workspace_id}")
        assert (marks[visibility.WORKSPACE], marks[visibility.JOB]) == (client.workspace_id, WORKFLOW)

    @durable_only("reads the search attributes of workflows")
    async def test_generations_can_be_searched_by_their_end_and_cost(self, client: Client) -> None:
        answer = await client.generate(QUESTION, user_id=USER, key="answered")
        await client.set_cap(Period.DAY, Decimal("0.000001"))
        await client.generate("Another?", user_id=USER, key="refused")
        for key, (status, cost) in {"answered": ("completed", answer.meta.cost_usd), "refused": ("refused", 0)}.items():
            marks = await marks_of(client, workflow_id(client.workspace_id, key))
            assert (marks[visibility.WORKSPACE], marks[visibility.JOB]) == (client.workspace_id, WORKFLOW)
            assert (marks[visibility.STATUS], marks[visibility.COST_USD]) == (status, pytest.approx(float(cost)))

    async def test_a_template_precedes_the_messages(self, client: Client) -> None:
        plain = await client.generate(QUESTION, user_id=USER)
        spoken = await client.generate(QUESTION, user_id=USER, template="concise")
        assert spoken.meta.template == "concise@1"
        assert spoken.meta.usage.input_tokens > plain.meta.usage.input_tokens

    async def test_a_parameter_that_the_vendor_does_not_accept_is_dropped_and_reported(self, pro: Client) -> None:
        result = await pro.generate(QUESTION, user_id=USER, temperature=0.5)
        assert result.meta.provider is Provider.ANTHROPIC
        assert result.meta.dropped == ("temperature",)

    async def test_a_retired_model_works_with_a_warning(self, pro: Client) -> None:
        result = await pro.generate(QUESTION, user_id=USER, model="claude-3-5-sonnet-20241022")
        assert result.meta.model == "claude-3-5-sonnet-20241022"
        assert any("claude-sonnet-4-6" in warning for warning in result.meta.warnings)


class TestRefusals:
    async def test_without_energy_no_provider_is_called(self, client: Client, simulator: SimulatorAdmin) -> None:
        for _ in range(100):
            await client.grant_energy(USER, 1, key="open")
        async with client.database.transaction() as tx:
            from sqlalchemy import text  # noqa: PLC0415

            await tx.execute(text("UPDATE energy_accounts SET granted = 0"))
            await tx.execute(text("UPDATE energy_entries SET amount = 0"))
        result = await client.generate(QUESTION, user_id=USER)
        assert not result.success and result.content is None
        assert result.refusal and result.refusal.code is Refused.INSUFFICIENT_ENERGY
        assert await simulator.requests() == []
        [row] = await rows(client)
        assert (row.outcome, row.reason) == ("refused", "insufficient_energy")

    async def test_a_cap_that_covers_no_model_refuses(self, client: Client, simulator: SimulatorAdmin) -> None:
        await client.set_cap(Period.DAY, Decimal("0.000001"))
        result = await client.generate(QUESTION, user_id=USER)
        assert result.refusal and result.refusal.code is Refused.BUDGET_EXHAUSTED
        assert await simulator.requests() == []
        assert await agrees(client)

    async def test_a_cap_that_covers_only_a_cheaper_model_uses_it_with_a_reason(self, pro: Client) -> None:
        await pro.set_cap(Period.MONTH, Decimal("0.003"))
        result = await pro.generate(QUESTION, user_id=USER)
        assert result.meta.model == CHEAP
        assert "claude-sonnet-4-6 may cost" in result.meta.reason

    async def test_the_free_tier_gets_the_cheap_model_even_if_another_is_named(self, client: Client) -> None:
        result = await client.generate(QUESTION, user_id=USER, model="claude-sonnet-4-6")
        assert result.meta.model == CHEAP
        assert "not for the free tier" in result.meta.reason

    async def test_bad_input_is_refused_before_anything_starts(self, client: Client) -> None:
        for wrong in (
            {"messages": []},
            {"messages": "  "},
            {"messages": "\u200e\u2060 \ufeff\u3164"},
            {"messages": QUESTION, "max_tokens": 0},
            {"messages": QUESTION, "flavour": "mint"},
            {"messages": QUESTION, "response_schema": {"type": "nothing"}},
            {"messages": [{"role": "robot", "content": "x"}]},
            {"messages": QUESTION, "provider": "elevenlabs"},
        ):
            with pytest.raises(InvalidInput):
                await client.generate(user_id=USER, **wrong)
        assert await histories(client) == []

    @pytest.mark.parametrize("said", ["a\0b", "caf\udce9", "a long prompt " * 500 + "\0"], ids=["nul", "byte", "long"])
    async def test_text_that_cannot_be_stored_is_refused_with_its_place(self, client: Client, said: str) -> None:
        for messages, place in ((said, 0), ([{"role": "user", "content": "Hi"}, {"role": "user", "content": said}], 1)):
            with pytest.raises(InvalidInput, match=rf"messages\.{place}\.content: contains '.*', which is not text"):
                await client.generate(messages, user_id=USER)
        for field in ("user_id", "prospect_id", "template", "experiment"):
            with pytest.raises(InvalidInput, match=rf"{field}: contains"):
                await client.generate(QUESTION, **{"user_id": USER, field: "a\0"})
        assert await histories(client) == []

    async def test_an_unknown_model_fails_by_name(self, client: Client) -> None:
        with pytest.raises(UnpricedModel, match="no provider has a price for model 'gpt-nonsense'"):
            await client.generate(QUESTION, user_id=USER, model="gpt-nonsense")

    async def test_a_cached_answer_has_the_warning_about_the_tier_too(self, client: Client) -> None:
        for _ in range(2):
            result = await client.generate(QUESTION, user_id=USER, model="gpt-4o")
            assert result.meta.warnings == ("gpt-4o was requested, but is not for the free tier",)
        assert result.meta.cached is Cached.EXACT

    async def test_an_unknown_template_fails_by_name(self, client: Client) -> None:
        with pytest.raises(InvalidInput, match="there is no prompt 'poetic'"):
            await client.generate(QUESTION, user_id=USER, template="poetic")


class TestFailures:
    async def test_the_next_provider_follows_one_that_is_down(self, pro: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("server_error", provider="anthropic", times=None)
        result = await pro.generate(QUESTION, user_id=USER)
        assert result.meta.provider is Provider.OPENAI
        assert result.meta.reason.startswith("fallback 2, after anthropic: ")
        assert result.meta.attempts > 1
        assert await agrees(pro)

    async def test_if_no_provider_answers_the_error_lists_what_was_tried(
        self, pro: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("quota", times=None)
        with pytest.raises(JobFailed, match=r"anthropic: .*openai: ") as failed:
            await pro.generate(QUESTION, user_id=USER)
        assert failed.value.reason == "ProviderUnavailable"
        [row] = await rows(pro)
        assert row.outcome == "failed"
        assert (await pro.energy(USER)).available == 100
        assert await agrees(pro)

    @pytest.mark.parametrize("fault", ["too_large_for_minute", "spend_limit", "billing_inactive", "content_filter"])
    async def test_what_no_wait_cures_leads_to_the_next_provider_at_once(
        self, fault: str, pro: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault(fault, provider="anthropic", times=None)
        result = await pro.generate(QUESTION, user_id=USER)
        assert (result.success, result.meta.provider) == (True, Provider.OPENAI)
        assert not await timer_fired(pro)
        assert await agrees(pro)

    async def test_a_prompt_that_every_filter_refuses_is_refused_and_free(
        self, pro: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("content_filter", times=None)
        result = await pro.generate(QUESTION, user_id=USER)
        assert result.refusal and result.refusal.code is Refused.CONTENT_FILTERED
        assert (result.meta.finish, result.meta.cost_usd) == (Finish.REFUSED, 0)
        assert (await pro.energy(USER)).available == 100
        assert await simulator.billed() == []
        assert await agrees(pro)

    async def test_an_empty_answer_is_asked_for_again_with_more_room_and_charged_once(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("empty", provider="openai")
        result = await client.generate(QUESTION, user_id=USER, max_tokens=50)
        assert result.success and result.content
        first, second = await simulator.billed()
        assert first["output_tokens"] == 50 < second["output_tokens"] + 50
        assert (result.meta.attempts, (await client.energy(USER)).charged) == (2, 1)
        assert await agrees(client)

    async def test_answers_that_stay_empty_are_an_error_without_a_charge(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("empty", times=None)
        with pytest.raises(JobFailed) as failed:
            await client.generate(QUESTION, user_id=USER, max_tokens=50)
        assert failed.value.reason == "EmptyReply"
        assert [one["output_tokens"] for one in await simulator.billed()] == [50, 200, 800]
        assert (await client.energy(USER)).available == 100
        assert await agrees(client)

    async def test_a_timer_waits_for_the_end_of_a_rate_limit(self, client: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("rate_limit", provider="openai")
        result = await client.generate(QUESTION, user_id=USER)
        assert (result.meta.model, result.meta.attempts) == (CHEAP, 2)
        assert await timer_fired(client) is not False

    async def test_after_a_rate_limit_a_cheaper_model_may_be_used(self, pro: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("rate_limit", provider="anthropic", times=None)
        result = await pro.generate(QUESTION, user_id=USER, on_rate_limit=OnRateLimit.CHEAPER)
        assert result.meta.provider is Provider.OPENAI
        assert not await timer_fired(pro)

    async def test_a_prompt_that_is_too_long_is_condensed_and_sent_again(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("context_too_long", provider="openai")
        result = await client.generate(TALK, user_id=USER)
        assert result.success and result.meta.condensed
        assert result.meta.cost_usd == (await client.costs()).confirmed_usd
        assert (result.meta.attempts, result.meta.energy_left) == (3, 99)
        assert await agrees(client)

    async def test_a_prompt_still_too_long_goes_to_the_next_model(self, pro: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("context_too_long", provider="anthropic", times=None)
        result = await pro.generate(QUESTION, user_id=USER)
        assert result.meta.provider is Provider.OPENAI

    async def test_a_prompt_that_cannot_be_condensed_is_refused(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("context_too_long", provider="openai", times=None)
        result = await client.generate(QUESTION, user_id=USER)
        assert result.refusal and result.refusal.code is Refused.CONTEXT_TOO_LONG

    async def test_a_cancelled_generation_records_what_it_paid_for(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.gate(closed=True, provider="openai")
        waiting = asyncio.create_task(client.generate(QUESTION, user_id=USER, key="mine"))
        await simulator.requests(at_least=1, state="in_flight")
        await cancel(client, "mine")
        with pytest.raises(JobFailed, match="cancelled"):
            await waiting
        await simulator.gate(closed=False, provider="openai")
        async with asyncio.timeout(20):
            while (await client.costs()).confirmed_usd == 0:
                await asyncio.sleep(0.05)
        assert await agrees(client)


class TestCache:
    async def test_the_same_request_is_answered_once(self, client: Client, simulator: SimulatorAdmin) -> None:
        first = await client.generate(QUESTION, user_id=USER)
        again = await client.generate(QUESTION, user_id="bob")
        assert again.content == first.content
        assert (again.meta.cached, again.meta.cost_usd, again.meta.energy_charged) == (Cached.EXACT, 0, 0)
        assert again.meta.saved_usd == first.meta.cost_usd
        assert len(await simulator.requests()) == 1
        kept = (await rows(client))[-1]
        assert (kept.cached, kept.saved_usd, kept.cost_usd, kept.user_id) == ("exact", first.meta.cost_usd, 0, "bob")
        assert await agrees(client)

    async def test_another_prompt_schema_or_length_is_another_request(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        variants: list[dict[str, Any]] = [
            {},
            {"max_tokens": 77},
            {"temperature": 0.3},
            {"response_schema": VERDICT},
            {"template": "casual"},
        ]
        for terms in variants:
            assert (await client.generate(QUESTION, user_id=USER, **terms)).meta.cached is Cached.NO
        assert len(await simulator.requests()) == len(variants)

    async def test_the_cache_can_be_turned_off(self, client: Client, simulator: SimulatorAdmin) -> None:
        for _ in range(2):
            await client.generate(QUESTION, user_id=USER, cache="off")
        assert len(await simulator.requests()) == 2

    async def test_a_similar_question_is_answered_if_the_policy_is_similar(self, client: Client) -> None:
        await client.generate("Could you please tell me what the export contains?", user_id=USER, cache="similar")
        again = await client.generate("could you tell me what the export contains", user_id=USER, cache="similar")
        assert again.meta.cached is Cached.SIMILAR
        denied = await client.generate("could you tell me what the export lacks", user_id=USER, cache="similar")
        assert denied.meta.cached is Cached.NO

    async def test_an_expired_answer_is_returned_if_no_provider_can_answer(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        first = await client.generate(QUESTION, user_id=USER)
        async with client.database.transaction() as tx:
            from sqlalchemy import text  # noqa: PLC0415

            await tx.execute(text("UPDATE llm_cache SET expires_at = now() - interval '1 day'"))
        await simulator.fault("server_error", times=None)
        stale = await client.generate(QUESTION, user_id=USER)
        assert stale.content == first.content
        assert stale.meta.cached is Cached.STALE

    @pytest.mark.parametrize("answered", ["simulated", "by the vendor"])
    async def test_an_expired_answer_of_another_kind_is_not_used(
        self, client: Client, simulator: SimulatorAdmin, answered: str
    ) -> None:
        """A simulator's answer is worth nothing once there is a key: the row says who answered."""
        await client.generate(QUESTION, user_id=USER)
        async with client.database.transaction() as tx:
            from sqlalchemy import text  # noqa: PLC0415

            expired = "UPDATE llm_cache SET expires_at = now() - interval '1 day', simulated = :simulated"
            await tx.execute(text(expired), {"simulated": answered == "simulated"})
        await simulator.fault("server_error", times=None)
        if answered == "simulated":
            assert (await client.generate(QUESTION, user_id=USER)).meta.cached is Cached.STALE
        else:
            with pytest.raises(JobFailed):
                await client.generate(QUESTION, user_id=USER)

    async def test_another_workspace_never_gets_a_cached_answer(
        self, client: Client, simulator: SimulatorAdmin
    ) -> None:
        await client.generate(QUESTION, user_id=USER)
        other = in_workspace(client, f"{client.workspace_id}-other")
        assert (await other.generate(QUESTION, user_id=USER)).meta.cached is Cached.NO
        assert len(await simulator.requests()) == 2


class TestKeys:
    async def test_the_same_key_is_the_same_generation(self, client: Client, simulator: SimulatorAdmin) -> None:
        once, twice = await asyncio.gather(
            *(client.generate(QUESTION, user_id=USER, key="order-7", cache="off") for _ in range(2))
        )
        later = await client.generate(QUESTION, user_id=USER, key="order-7", cache="off")
        assert once == twice
        assert (later.content, later.meta.request_id) == (once.content, once.meta.request_id)
        assert (later.meta.cost_usd, later.meta.energy_charged) == (once.meta.cost_usd, once.meta.energy_charged)
        assert len(await simulator.billed()) == 1

    async def test_the_same_key_for_another_request_is_a_conflict(self, client: Client) -> None:
        await client.generate(QUESTION, user_id=USER, key="order-7")
        with pytest.raises(IdempotencyConflict):
            await client.generate("Something else", user_id=USER, key="order-7")

    @pytest.mark.parametrize("is_recorded", [True, False])
    async def test_an_answer_that_was_removed_is_an_error_and_not_an_empty_success(
        self, client: Client, simulator: SimulatorAdmin, is_recorded: bool
    ) -> None:
        async def ask() -> GenerateResult:
            """In place of `client.generate`, which finds the finished workflow: as if Temporal had deleted that."""
            if isinstance(client, InlineClient):
                return await client.generate(QUESTION, user_id=USER, key="order-7")
            request = generate_input(client.workspace_id, QUESTION, user_id=USER)
            job_id = workflow_id(client.workspace_id, "order-7")
            with temporal_errors():
                return await client.temporal.execute_workflow(
                    WORKFLOW, request, id=job_id, task_queue=WORKFLOWS, result_type=GenerateResult
                )

        assert (await ask()).success
        await client.forget_user(USER)
        if not is_recorded:
            # As if its worker had stopped between the settlement and the record.
            await LedgerFixture(client.database).run("DELETE FROM generations")
        with pytest.raises(JobFailed, match=r"was removed.*use another key") as caught:
            await ask()
        assert (caught.value.reason, caught.value.kind) == ("NotFound", ErrorKind.NOT_FOUND)
        assert len(await simulator.billed()) == 1

    async def test_a_refused_request_can_be_repeated(self, client: Client, simulator: SimulatorAdmin) -> None:
        await client.set_cap(Period.DAY, Decimal(0))
        refused = await client.generate(QUESTION, user_id=USER, key="order-7")
        assert refused.refusal and "0 is left" in refused.refusal.message
        await client.set_cap(Period.DAY, None)
        once, twice = await asyncio.gather(*(client.generate(QUESTION, user_id=USER, key="order-7") for _ in range(2)))
        assert once.success and once == twice
        assert len(await simulator.billed()) == 1

    async def test_a_failed_request_can_be_repeated(self, client: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("quota", provider="openai")
        with pytest.raises(JobFailed):
            await client.generate(QUESTION, user_id=USER, key="order-7")
        assert (await client.generate(QUESTION, user_id=USER, key="order-7")).success
        assert await agrees(client)

    async def test_a_stored_prompt_of_another_workspace_is_not_found(self, client: Client) -> None:
        prompt = Prompt(messages=(Message(role="user", content="a secret " * 500),))
        from parley.storage import generations  # noqa: PLC0415

        async with client.database.transaction() as tx:
            stored = await generations.save_prompt(tx, "globex", prompt)
        asked = GenerateInput(workspace_id=client.workspace_id, user_id=USER, prompt=stored)
        with pytest.raises(JobFailed, match="no prompt"):
            if isinstance(client, InlineClient):
                await client.inline.run(asked)
            else:
                await generate(Backend(client.temporal, client.database, client.settings), asked, None)


@durable_only("a request that waits for hours needs a workflow")
class TestWaitLimit:
    """On the server that skips the time in which a workflow only waits."""

    async def test_a_request_that_waits_is_answered_after_the_outage(
        self, skipping_client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("overloaded", provider="openai", times=7)
        # The workflow skips its waits, the breaker's open time passes on the database's clock: a day has waits enough.
        result = await skipping_client.generate(QUESTION, user_id=USER, wait_limit_seconds=86_400)
        assert result.content
        assert result.meta.attempts == len(await simulator.requests())
        assert await agrees(skipping_client)

    async def test_the_wait_for_an_outage_is_limited(self, skipping_client: Client, simulator: SimulatorAdmin) -> None:
        await simulator.fault("server_error", times=None)
        with pytest.raises(JobFailed, match="no provider could serve"):
            await skipping_client.generate(QUESTION, user_id=USER, wait_limit_seconds=3600)
        assert (await skipping_client.energy(USER)).reserved == 0
        assert await agrees(skipping_client)

    async def test_a_rate_limit_of_a_minute_delays_the_answer_and_one_of_an_hour_does_not(
        self, skipping_client: Client, simulator: SimulatorAdmin
    ) -> None:
        await simulator.fault("rate_limit", provider="openai", retry_after=60)
        assert (await skipping_client.generate(QUESTION, user_id=USER)).meta.attempts == 2
        await simulator.fault("rate_limit", times=None, retry_after=3600)
        with pytest.raises(JobFailed, match="429"):
            await skipping_client.generate("Another question", user_id=USER)


async def test_energy_for_fifty_answers_fifty_of_two_hundred_concurrent_requests(
    client: Client, simulator: SimulatorAdmin
) -> None:
    await client.grant_energy(USER, 1, key="open the account")
    async with client.database.transaction() as tx:
        from sqlalchemy import text  # noqa: PLC0415

        await tx.execute(text("UPDATE energy_accounts SET granted = 50"))
        await tx.execute(text("UPDATE energy_entries SET amount = 50 WHERE grant_key = 'starting grant'"))
        await tx.execute(text("DELETE FROM energy_entries WHERE grant_key = 'open the account'"))
    asked = (client.generate(f"Question {number}", user_id=USER) for number in range(200))
    results = await asyncio.gather(*asked)
    outcomes = Counter(result.refusal.code if result.refusal else None for result in results)
    assert outcomes == {None: 50, Refused.INSUFFICIENT_ENERGY: 150}
    assert len(await simulator.billed()) == 50
    assert await agrees(client)


@durable_only("looks for a workflow")
async def test_a_generation_of_another_workspace_is_not_found(client: Client) -> None:
    await client.generate(QUESTION, user_id=USER, key="mine")
    other = Backend(client.temporal, client.database, client.settings).client("globex")
    with pytest.raises(NotFound):
        await other.status(f"generate/{client.workspace_id}/mine")
