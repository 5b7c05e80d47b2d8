"""`/v1/embeddings`, as OpenAI's own SDK uses it."""

import asyncio
from decimal import Decimal
from pathlib import Path
from threading import get_ident
from typing import Any

import httpx
import openai
import pytest
from fastapi.responses import JSONResponse

from gateway import embeddings
from parley import Backend, Client, Settings
from parley.domain.budgets import Period
from parley.domain.vectors import unpacked
from parley.storage.tables import Generation
from parley.testing import SimulatorAdmin
from tests.gateway.parts import Running, running_gateway
from tests.storage.ledger_fixture import LedgerFixture

MODEL = "text-embedding-3-small"
TEXTS = ["How do I reset my password?", "I forgot my password, how can I reset it?", "The parcel has not arrived"]
KEYED = {"idempotency-key": "document-7"}
POLICY = '[[route]]\nprovider = "openai"\n\n[action.ai_embedding]\nenergy = 2\n\n[action.tiny]\nmax_cost_usd = 0\n'

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": ["a", ""]}, "input.1"),
    ({"input": ["a", 1]}, "input"),
    ({"input": [[1, 2], []]}, "input.1"),
    ({"input": [1.5]}, "input"),
    ({"input": [-1]}, "input.0.0"),
    ({"input": [True]}, "input"),
    ({"input": {"text": "a"}}, "input"),
    ({"input": None}, "input"),
    ({"input": "a\0"}, "input.0"),
    ({"input": ["a"] * 2049}, "input"),
    ({"dimensions": 0}, "dimensions"),
    ({"dimensions": "3"}, "dimensions"),
    ({"encoding_format": "hex"}, "encoding_format"),
    ({"user": "u" * 201}, "user"),
    ({"surprise": 1}, "surprise"),
]
REFUSED_HEADERS = {
    "x-parley-mode": "durable",
    "x-parley-cache": "exact",
    "x-parley-on-disconnect": "cancel",
    "x-parley-template": "concise",
    "x-parley-experiment": "tone",
    "x-parley-workspace": "other",
}


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    local = {
        "local_base_url": f"{settings.simulator_url}/local/v1",
        "local_usd_per_million_input": Decimal("0.01"),
        "local_usd_per_million_output": Decimal(0),
    }
    return settings.model_copy(update={**local, "policy_file": path, "starting_energy": 5})


@pytest.fixture
async def sdk(gateway: Running, secret: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0)


def nearness(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


class TestVectors:
    async def test_each_input_has_one_and_similar_texts_are_near(self, sdk: openai.AsyncOpenAI):
        made = await sdk.embeddings.create(model=MODEL, input=TEXTS)
        assert [one.index for one in made.data] == [0, 1, 2]
        reset, forgot, parcel = (one.embedding for one in made.data)
        assert len(reset) == 1536
        assert nearness(reset, reset) == pytest.approx(1, abs=1e-5)
        assert nearness(reset, forgot) > nearness(reset, parcel) + 0.2
        assert made.model == f"simulator/{MODEL}"

    async def test_floats_and_base64_are_the_same_vectors(self, sdk: openai.AsyncOpenAI, http: httpx.AsyncClient):
        asked: dict[str, Any] = {"model": MODEL, "input": TEXTS, "dimensions": 64}
        of_sdk = [one.embedding for one in (await sdk.embeddings.create(**asked)).data]
        floats = (await http.post("/v1/embeddings", json=asked)).json()["data"]
        packed = (await http.post("/v1/embeddings", json={**asked, "encoding_format": "base64"})).json()["data"]
        assert [len(one) for one in of_sdk] == [64, 64, 64]
        assert [one["embedding"] for one in floats] == of_sdk == [unpacked(one["embedding"]) for one in packed]

    @pytest.mark.parametrize("form", ["float", "base64"])
    async def test_they_are_written_beside_the_event_loop(
        self, form: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ):
        """Many vectors take most of a second, in which the gateway would answer no one else."""
        threads: list[int] = []

        class Written(JSONResponse):
            def render(self, content: Any) -> bytes:
                threads.append(get_ident())
                return super().render(content)

        def numbers(vector: str) -> list[float]:
            threads.append(get_ident())
            return unpacked(vector)

        monkeypatch.setattr(embeddings, "JSONResponse", Written)
        monkeypatch.setattr(embeddings, "unpacked", numbers)
        asked = {"model": MODEL, "input": TEXTS, "dimensions": 64, "encoding_format": form}
        assert (await http.post("/v1/embeddings", json=asked)).status_code == 200
        assert len(threads) == {"float": 4, "base64": 1}[form]
        assert get_ident() not in threads

    async def test_tokens_are_taken_as_they_are(self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin):
        one = await sdk.embeddings.create(model=MODEL, input=[1, 2, 3])
        two = await sdk.embeddings.create(model=MODEL, input=[[1, 2, 3], [4]])
        assert one.data[0].embedding == two.data[0].embedding
        assert [request["input_tokens"] for request in await simulator.billed()] == [3, 4]
        assert (one.usage.prompt_tokens, two.usage.total_tokens) == (3, 4)

    async def test_a_local_server_makes_them_too(self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin):
        made = await sdk.embeddings.create(model="local/nomic-embed-text", input="hello")
        assert made.data[0].embedding
        [billed] = await simulator.billed()
        assert (billed["provider"], billed["model"]) == ("local", "nomic-embed-text")


class TestCost:
    async def test_it_is_in_the_ledger_as_the_provider_billed_it(
        self, sdk: openai.AsyncOpenAI, client: Client, simulator: SimulatorAdmin
    ):
        raw = await sdk.embeddings.with_raw_response.create(model=MODEL, input=TEXTS, user="ann")
        [billed] = await simulator.billed()
        made, cost = raw.parse(), Decimal(billed["input_tokens"]) * Decimal("0.02") / 1_000_000
        assert made.usage.prompt_tokens == made.usage.total_tokens == billed["input_tokens"]
        assert Decimal(raw.headers["x-parley-cost-usd"]) == cost == (await client.costs()).confirmed_usd
        assert raw.headers["x-parley-model"] == f"openai/{MODEL}"
        assert [raw.headers[f"x-parley-{name}"] for name in ("cached", "attempts", "mode")] == ["no", "1", "inline"]
        [action] = (await client.reports.actions()).lines
        assert (action.action, action.confirmed_usd, action.energy_charged) == ("ai_embedding", cost, 2)
        assert (await client.energy("ann")).charged == 2
        assert await LedgerFixture(client.database, client.workspace_id).all(Generation) == []
        assert await client.audit() == []

    async def test_the_headers_choose_user_and_action(self, sdk: openai.AsyncOpenAI, client: Client):
        chosen = {"x-parley-user": "bob", "x-parley-action": "search", "x-parley-mode": "inline"}
        await sdk.embeddings.create(model=MODEL, input="a", user="ann", extra_headers=chosen)
        [action] = (await client.reports.actions()).lines
        assert (action.action, (await client.energy("bob")).charged) == ("search", 1)

    async def test_without_a_user_the_user_is_the_key(self, sdk: openai.AsyncOpenAI, client: Client):
        await sdk.embeddings.create(model=MODEL, input="a")
        [key] = await client.gateway_keys.list()
        assert (await client.energy(key.key_id)).charged == 2

    async def test_a_key_of_another_workspace_pays_there(
        self, gateway: Running, sdk: openai.AsyncOpenAI, backend: Backend, client: Client, simulator: SimulatorAdmin
    ):
        other = backend.client(f"{client.workspace_id}-other")
        secret = (await other.gateway_keys.create("app")).secret
        elsewhere = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0)
        for one in (sdk, elsewhere):
            await one.embeddings.create(model=MODEL, input="a", user="ann", extra_headers=KEYED)
        assert len(await simulator.billed()) == 2
        assert [(await one.energy("ann")).charged for one in (client, other)] == [2, 2]
        assert await client.audit() == await other.audit() == []


class TestRepetition:
    async def test_one_key_is_paid_once(self, sdk: openai.AsyncOpenAI, client: Client, simulator: SimulatorAdmin):
        asked: dict[str, Any] = {"model": MODEL, "input": TEXTS, "user": "ann", "extra_headers": KEYED}
        raw = [await sdk.embeddings.with_raw_response.create(**asked) for _ in range(2)]
        first, again = (one.parse() for one in raw)
        assert first.data == again.data and first.usage == again.usage
        assert raw[0].headers["x-parley-cost-usd"] == raw[1].headers["x-parley-cost-usd"]
        assert len(await simulator.billed()) == 1
        assert (await client.energy("ann")).charged == 2

    async def test_at_another_gateway_it_joins_the_request_that_runs(
        self, sdk: openai.AsyncOpenAI, secret: str, backend: Backend, settings: Settings, simulator: SimulatorAdmin
    ):
        asked: dict[str, Any] = {"model": MODEL, "input": TEXTS, "extra_headers": KEYED}
        async with running_gateway(backend, settings.model_copy(update={"gateway_port": 0})) as other:
            joining = openai.AsyncOpenAI(base_url=f"{other.url}/v1", api_key=secret, max_retries=0)
            await simulator.gate(closed=True, provider="openai")
            first = asyncio.create_task(sdk.embeddings.create(**asked))
            await simulator.requests(at_least=1, state="in_flight")
            second = asyncio.create_task(joining.embeddings.create(**asked))
            await simulator.gate(closed=False, provider="openai")
            assert (await first).data == (await second).data
        assert len(await simulator.requests()) == 1

    async def test_another_body_is_a_conflict(self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin):
        asked: dict[str, Any] = {"model": MODEL, "input": TEXTS, "extra_headers": KEYED}
        await sdk.embeddings.create(**asked)
        for change in ({"input": TEXTS[:1]}, {"dimensions": 8}, {"model": "text-embedding-3-large"}, {"user": "bob"}):
            with pytest.raises(openai.ConflictError) as conflict:
                await sdk.embeddings.create(**asked | change)
            assert conflict.value.response.headers["x-should-retry"] == "false"
        assert len(await simulator.requests()) == 1

    async def test_a_caller_that_leaves_gets_it_with_its_retry(
        self, gateway: Running, secret: str, simulator: SimulatorAdmin
    ):
        sdk = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=5, timeout=0.5)
        await simulator.gate(closed=True, provider="openai")
        asking = asyncio.create_task(sdk.embeddings.create(model=MODEL, input="a"))
        retries = gateway.server.config.app.state.gateway.retries  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]
        while not retries.joined:
            assert not asking.done()
            await asyncio.sleep(0.02)
        await simulator.gate(closed=False, provider="openai")
        assert (await asking).data
        assert len(await simulator.requests()) == 1

    async def test_a_reply_that_is_cut_is_asked_for_again_and_charged_once(
        self, sdk: openai.AsyncOpenAI, client: Client, simulator: SimulatorAdmin
    ):
        await simulator.fault("cut", provider="openai")
        raw = await sdk.embeddings.with_raw_response.create(model=MODEL, input="a", user="ann")
        assert raw.headers["x-parley-attempts"] == "2"
        costs = await client.costs()
        assert len(await simulator.billed()) == 2 and costs.confirmed_usd > 0 and costs.uncertain_usd > 0
        assert (await client.energy("ann")).charged == 2
        assert await client.audit() == []

    async def test_a_rate_limit_is_waited_out(self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin):
        await simulator.fault("rate_limit", retry_after=0.1)
        assert (await sdk.embeddings.create(model=MODEL, input="a")).data

    async def test_one_beyond_the_time_limit_says_when(self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin):
        await simulator.fault("rate_limit", retry_after=300)
        with pytest.raises(openai.InternalServerError) as limited:
            await sdk.embeddings.create(model=MODEL, input="a")
        assert (limited.value.status_code, limited.value.response.headers["retry-after"]) == (503, "300")


class TestStoredReplies:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"openai_store": True, "openai_recovery_seconds": 3600})

    async def test_vectors_are_not_looked_for_among_stored_completions(
        self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin
    ):
        await simulator.fault("cut", provider="openai")
        assert (await sdk.embeddings.create(model=MODEL, input="a")).data
        assert len(await simulator.billed()) == 2


class TestErrors:
    async def test_what_is_not_valid_is_refused_by_name(self, http: httpx.AsyncClient, simulator: SimulatorAdmin):
        for body, param in REFUSED:
            answer = await http.post("/v1/embeddings", json={"model": MODEL, "input": "a", **body})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), body
        assert await simulator.requests() == []

    async def test_a_header_that_has_no_meaning_here_is_refused(self, http: httpx.AsyncClient):
        for name, value in REFUSED_HEADERS.items():
            answer = await http.post("/v1/embeddings", json={"model": MODEL, "input": "a"}, headers={name: value})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)

    @pytest.mark.parametrize("model", ["gpt-4o-mini", "anthropic/claude-haiku-4-5", "parley/auto", "nothing"])
    async def test_a_model_without_embeddings(self, model: str, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin):
        with pytest.raises(openai.NotFoundError) as missing:
            await sdk.embeddings.create(model=model, input="a")
        assert missing.value.param == "model"
        assert await simulator.requests() == []

    async def test_a_model_of_embeddings_answers_no_chats(self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin):
        with pytest.raises(openai.BadRequestError, match="answers no chats"):
            await sdk.chat.completions.create(model=f"openai/{MODEL}", messages=[{"role": "user", "content": "Hi"}])
        assert await simulator.requests() == []

    async def test_the_vendors_refusal_is_a_bad_request(self, sdk: openai.AsyncOpenAI, client: Client):
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            await sdk.embeddings.create(model=MODEL, input="a", dimensions=5000)
        assert (await client.costs()).confirmed_usd == 0

    async def test_a_text_beyond_the_window(self, sdk: openai.AsyncOpenAI):
        with pytest.raises(openai.BadRequestError) as refused:
            await sdk.embeddings.create(model=MODEL, input=[7] * 8193)
        assert refused.value.code == "context_too_long"

    async def test_no_budget_and_no_energy_are_refused_once(
        self, gateway: Running, secret: str, client: Client, simulator: SimulatorAdmin
    ):
        sdk = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=2)
        for _ in range(2):  # of the 5 units of energy
            await sdk.embeddings.create(model=MODEL, input="a", user="ann")
        for code, action in (("insufficient_energy", "ai_embedding"), ("budget_exhausted", "tiny")):
            user = "ann" if action == "ai_embedding" else "bob"
            with pytest.raises(openai.APIStatusError) as refused:
                headers = {"x-parley-action": action}
                await sdk.embeddings.create(model=MODEL, input="a", user=user, extra_headers=headers)
            error: Any = refused.value
            assert (error.status_code, error.code, error.type) == (402, code, "insufficient_quota")
            assert error.request.headers["x-stainless-retry-count"] == "0"
        await client.set_cap(Period.DAY, Decimal(0))
        with pytest.raises(openai.APIStatusError) as capped:
            await sdk.embeddings.create(model=MODEL, input="a", user="eve")
        assert capped.value.code == "budget_exhausted"
        assert len(await simulator.requests()) == 2
        assert await client.audit() == []
