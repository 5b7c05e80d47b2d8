"""The batch APIs of both vendors, through their own SDKs on the simulator."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from parley.domain.errors import BadRequest, Billed, ProviderError, ProviderNotConfigured, ProviderUnavailable
from parley.domain.pricing import BATCH
from parley.domain.requests import Message, Provider
from parley.providers.batch_api import BatchApi, LineResult, Sending, lines_in
from parley.providers.registry import Providers
from tests.parts import SimulatorAdmin
from tests.providers.vendors import AUDIO, MODEL, chat, question, settings

VENDORS = (Provider.OPENAI, Provider.ANTHROPIC)
COUNT = 4


@asynccontextmanager
async def batch_api(simulator: SimulatorAdmin, provider: Provider) -> AsyncIterator[BatchApi]:
    api = Providers(settings(simulator_url=simulator.url)).batch_api(provider)
    try:
        yield api
    finally:
        await api.close()


@pytest.fixture(params=VENDORS)
async def api(simulator: SimulatorAdmin, request: pytest.FixtureRequest) -> AsyncIterator[BatchApi]:
    async with batch_api(simulator, request.param) as opened:
        yield opened


def sending(count: int = COUNT) -> Sending:
    attempts = frozenset(str(uuid4()) for _ in range(count))
    return Sending(str(uuid4()), count, attempts, datetime.now(UTC))


def file_of(api: BatchApi, given: Sending, path: Path) -> Path:
    asked = (Message(role="user", content="What is a lift?"),)
    lines = [api.line(chat(messages=asked), MODEL, attempt) for attempt in sorted(given.attempt_ids)]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


async def submitted(api: BatchApi, file: Path, given: Sending) -> str:
    with file.open("rb") as lines:
        return await api.submit(lines, given)


async def sent(api: BatchApi, given: Sending, path: Path) -> str:
    return await submitted(api, file_of(api, given, path / "lines.jsonl"), given)


async def results(api: BatchApi, vendor_id: str) -> list[LineResult]:
    async with aclosing(api.results(vendor_id)) as found:
        return [result async for result in found]


async def test_each_line_has_a_reply_at_the_price_of_a_batch(api: BatchApi, simulator: SimulatorAdmin, tmp_path: Path):
    given = sending()
    await simulator.post("batches", seconds=3600)
    batch = await sent(api, given, tmp_path)
    assert (await api.status(batch)).state == "working"
    assert await simulator.billed() == []
    await simulator.post("batches", seconds=0)
    status = await api.status(batch)
    assert (status.state, status.answered, status.failed, status.is_complete) == ("ended", COUNT, 0, True)
    found = await results(api, batch)
    assert {result.attempt_id for result in found} == given.attempt_ids
    for result in found:
        assert result.reply is not None
        assert result.reply.text
        assert result.reply.usage.price_class == BATCH
    billed = await simulator.billed()
    assert {one["attempt_id"] for one in billed} == given.attempt_ids
    assert all(one["batch"] for one in billed)


async def test_a_batch_is_found_by_what_was_sent(api: BatchApi, tmp_path: Path):
    others, given = [sending(), sending(COUNT + 1)], sending()
    for one in others:
        await sent(api, one, tmp_path)
    batch = await sent(api, given, tmp_path)
    assert await api.find(given) == batch
    assert await api.find(sending()) is None


async def test_an_open_batch_of_anthropic_may_be_the_one_that_is_looked_for(simulator: SimulatorAdmin, tmp_path: Path):
    await simulator.post("batches", seconds=3600)
    async with batch_api(simulator, Provider.ANTHROPIC) as api:
        given = sending()
        await sent(api, given, tmp_path)
        for looked_for in (given, sending()):
            with pytest.raises(ProviderUnavailable, match="may be the one"):
                await api.find(looked_for)
        assert await api.find(sending(COUNT + 1)) is None
        later = replace(sending(), sent_at=datetime.now(UTC) + timedelta(hours=1))
        assert await api.find(later) is None


@pytest.mark.parametrize("fault", ["batch_expired", "batch_half"])
async def test_lines_that_expire_are_not_billed(api: BatchApi, simulator: SimulatorAdmin, tmp_path: Path, fault: str):
    await simulator.fault(fault)
    batch = await sent(api, sending(), tmp_path)
    status = await api.status(batch)
    answered = COUNT // 2 if fault == "batch_half" else 0
    assert (status.state, status.answered, status.is_complete) == ("ended", answered, False)
    found = await results(api, batch)
    assert len([result for result in found if result.reply]) == answered == len(await simulator.billed())
    errors = [result.error for result in found if result.error]
    assert [error.billed for error in errors] == [Billed.NO] * (COUNT - answered)


async def test_a_cancelled_batch_keeps_what_is_answered(api: BatchApi, simulator: SimulatorAdmin, tmp_path: Path):
    await simulator.post("batches", seconds=3600)
    await simulator.fault("batch_half")
    batch = await sent(api, sending(), tmp_path)
    await api.cancel(batch)
    assert (await api.status(batch)).state == "ended"
    assert len([result for result in await results(api, batch) if result.reply]) == COUNT // 2
    await api.cancel(batch)


async def test_odd_lines_are_read_past(api: BatchApi, simulator: SimulatorAdmin, tmp_path: Path):
    await simulator.fault("batch_odd_lines")
    given = sending()
    found = await results(api, await sent(api, given, tmp_path))
    assert len(found) == COUNT + 3
    assert given.attempt_ids < {result.attempt_id for result in found}
    assert len([result for result in found if result.reply is None and result.error is None]) == 1


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_only_a_line_break_ends_a_line(size: int):
    replies = ["two\u2028lines", "next\u0085line", "a\u2029paragraph \U0001f600"]
    content = "\n\n".join(json.dumps(reply, ensure_ascii=False) for reply in replies).encode()

    async def arriving() -> AsyncIterator[bytes]:
        for start in range(0, len(content), size):
            yield content[start : start + size]

    assert [json.loads(line) async for line in lines_in(arriving())] == replies


async def test_a_line_that_the_vendor_refuses_has_its_error(api: BatchApi, tmp_path: Path):
    given = sending(2)
    file = file_of(api, given, tmp_path / "lines.jsonl")
    file.write_text(file.read_text().replace('"messages":[', '"surprise":1,"messages":[', 1))
    found = await results(api, await submitted(api, file, given))
    errors = [result.error for result in found if result.error]
    assert [(type(error), error.billed) for error in errors] == [(BadRequest, Billed.NO)]
    assert len([result for result in found if result.reply]) == 1


async def test_openai_refuses_a_file_after_it_was_sent(simulator: SimulatorAdmin, tmp_path: Path):
    async with batch_api(simulator, Provider.OPENAI) as api:
        given = sending(2)
        file = file_of(api, given, tmp_path / "lines.jsonl")
        lines = file.read_text().splitlines()
        spoiled = {
            "not JSON": [*lines, "{"],
            "used by another line": [lines[0], lines[0]],
            "one model": [lines[0], lines[1].replace(MODEL, "other")],
            "Expected POST": [line.replace("/v1/chat", "/v1/other") for line in lines],
        }
        for problem, wrong in spoiled.items():
            file.write_text("".join(f"{line}\n" for line in wrong))
            status = await api.status(await submitted(api, file, given))
            assert status.state == "rejected"
            assert problem.replace("not JSON", "valid JSON") in status.problem
    assert await simulator.billed() == []


async def test_anthropic_refuses_a_file_at_once(simulator: SimulatorAdmin, tmp_path: Path):
    async with batch_api(simulator, Provider.ANTHROPIC) as api:
        given = sending(2)
        file = file_of(api, given, tmp_path / "lines.jsonl")
        line = json.loads(file.read_text().splitlines()[0])
        for wrong in ({**line, "custom_id": "a/b"}, {**line, "custom_id": "x" * 65}):
            file.write_text(json.dumps(wrong) + "\n")
            with pytest.raises(BadRequest, match="custom_id"):
                await submitted(api, file, given)


async def test_a_batch_whose_answer_was_lost_may_exist(api: BatchApi, simulator: SimulatorAdmin, tmp_path: Path):
    await simulator.fault("cut")
    given = sending()
    with pytest.raises(ProviderError) as caught:
        await sent(api, given, tmp_path)
    assert caught.value.billed is Billed.UNKNOWN
    assert await api.find(given)


async def test_only_chats_go_into_a_batch(api: BatchApi):
    assert AUDIO
    with pytest.raises(BadRequest):
        api.line(question(Provider.ELEVENLABS), MODEL, "attempt")


async def test_other_providers_have_no_batch_api(simulator: SimulatorAdmin):
    providers = Providers(settings(simulator_url=simulator.url, local_base_url=f"{simulator.url}/local/v1"))
    with pytest.raises(ProviderNotConfigured, match="no batch API"):
        providers.batch_api(Provider.LOCAL)
