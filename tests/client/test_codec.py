"""Prompts and answers are not in clear text in Temporal's history unless that is allowed."""

import base64
from uuid import uuid4

import pytest
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload
from temporalio.client import Client as TemporalClient
from temporalio.worker import Worker

from parley import Backend, InvalidInput
from parley.client.generate import generate_input
from parley.codec import ENCODING, KEY_ID, OFF, EncryptionCodec, new_keys
from parley.connection import connect, data_converter
from parley.domain.errors import JobFailed
from parley.domain.generate.contract import WORKFLOW as GENERATE
from parley.domain.generate.contract import GenerateResult, workflow_id
from parley.domain.queues import WORKFLOWS
from parley.settings import Settings
from parley.storage.database import Database
from starter.embedded import Addresses
from tests.client.quoting import QUOTE, Quoting, quote
from tests.parts import SimulatorAdmin, running_workers
from worker import RUNNER

OLD, NEW, OTHER = (f"{name}:{base64.b64encode(name[:1].encode() * 32).decode()}" for name in ("old", "new", "other"))
SECRET = "the merger with Paternoster"
PAYLOAD = Payload(metadata={"encoding": b"json/plain"}, data=b'"x"')


async def stored(temporal: TemporalClient, job_id: str) -> bytes:
    """All that the server keeps of a workflow: its history and its description."""
    workflow = temporal.get_workflow_handle(job_id)
    events = b"".join(event.SerializeToString() for event in (await workflow.fetch_history()).events)
    return events + (await workflow.describe()).raw_description.SerializeToString()


async def test_a_history_has_neither_prompt_nor_answer_in_clear_text(
    stack: Addresses, database: Database, settings: Settings, temporal: TemporalClient
):
    keyed = settings.model_copy(update={"codec_keys": SecretStr(NEW)})
    own = await connect(stack.temporal_address, codec_keys=keyed.codec_keys)
    client = Backend(own, database, keyed).client(f"workspace-{uuid4().hex[:8]}")
    async with running_workers(own, database, keyed):
        answer = await client.generate(SECRET, user_id="ann", key="k")
    assert answer.content
    kept = await stored(temporal, workflow_id(client.workspace_id, "k"))
    assert b"encryption-key-id" in kept
    assert SECRET.encode() not in kept
    assert answer.content.encode() not in kept


async def test_what_a_provider_said_of_a_failure_is_not_in_clear_text(
    stack: Addresses, database: Database, settings: Settings, temporal: TemporalClient, simulator: SimulatorAdmin
):
    keyed = settings.model_copy(update={"codec_keys": SecretStr(NEW)})
    own = await connect(stack.temporal_address, codec_keys=keyed.codec_keys)
    client = Backend(own, database, keyed).client(f"workspace-{uuid4().hex[:8]}")
    await simulator.fault("auth", times=None)
    async with running_workers(own, database, keyed):
        with pytest.raises(JobFailed) as failed:
            await client.generate(SECRET, user_id="ann", key="k")
    assert failed.value.reason == "ProviderUnavailable"
    said = str(failed.value).partition(" (")[0].removeprefix("no provider could serve: ")
    assert len(said) > 10
    assert said.encode() not in await stored(temporal, workflow_id(client.workspace_id, "k"))


async def test_all_that_may_quote_a_text_is_encrypted(stack: Addresses, temporal: TemporalClient):
    """Summaries, details, memo, timers, heartbeats, signals, updates, and failures of every kind."""
    own = await connect(stack.temporal_address, codec_keys=SecretStr(NEW))
    queue = job_id = f"quoting-{uuid4().hex[:8]}"
    async with Worker(own, task_queue=queue, workflows=[Quoting], activities=[quote], workflow_runner=RUNNER):
        workflow = await own.start_workflow(
            "Quoting",
            QUOTE,
            id=job_id,
            task_queue=queue,
            memo={"quote": QUOTE},
            static_summary=QUOTE,
            static_details=QUOTE,
        )
        with pytest.raises(Exception, match="update failed") as updated:
            await workflow.execute_update("ask", QUOTE)
        assert QUOTE in str(updated.value.__cause__)
        with pytest.raises(Exception, match="execution failed") as failed:
            await workflow.result()
    assert QUOTE in str(failed.value.__cause__)
    kept = await stored(temporal, job_id)
    assert b"encryption-key-id" in kept
    assert QUOTE.encode() not in kept
    assert b"raise_quoting" not in kept  # the stack trace


async def test_keys_can_be_rotated():
    [before] = await EncryptionCodec(OLD).encode([PAYLOAD])
    both = EncryptionCodec(f"{NEW}, {OLD}")
    [after] = await both.encode([PAYLOAD])
    assert after.metadata[KEY_ID] == b"new"
    assert await both.decode([before, after, PAYLOAD]) == [PAYLOAD, PAYLOAD, PAYLOAD]


async def test_a_job_that_began_with_the_old_key_ends_with_the_new_one(
    stack: Addresses, database: Database, settings: Settings, temporal: TemporalClient
):
    """As in a rotation: every process has both keys before the first one encrypts with the new one."""
    before = await connect(stack.temporal_address, codec_keys=SecretStr(f"{OLD},{NEW}"))
    after = await connect(stack.temporal_address, codec_keys=SecretStr(f"{NEW},{OLD}"))
    asked = generate_input(f"workspace-{uuid4().hex[:8]}", SECRET, user_id="ann")
    job_id = workflow_id(asked.workspace_id, "k")
    job = await before.start_workflow(GENERATE, asked, id=job_id, task_queue=WORKFLOWS, result_type=GenerateResult)
    async with running_workers(after, database, settings):
        assert (await job.result()).success
    kept = await stored(temporal, job_id)
    assert {key for key in (b"old", b"new") if KEY_ID.encode() + b"\x12\x03" + key in kept} == {b"old", b"new"}
    assert SECRET.encode() not in kept


async def test_without_keys_what_is_encrypted_is_refused_and_the_rest_is_clear():
    [made] = await EncryptionCodec(OLD).encode([PAYLOAD])
    clear = EncryptionCodec(OFF)
    assert await clear.encode([PAYLOAD]) == [PAYLOAD]
    assert await clear.decode([PAYLOAD]) == [PAYLOAD]
    with pytest.raises(InvalidInput, match="no key of PARLEY_CODEC_KEYS decrypts"):
        await clear.decode([made])


async def test_clear_text_must_be_allowed(stack: Addresses, settings: Settings):
    for keys in (None, SecretStr("")):
        with pytest.raises(InvalidInput, match="PARLEY_CODEC_KEYS"):
            await connect(stack.temporal_address, codec_keys=keys)
    with pytest.raises(InvalidInput, match=r"PARLEY_CODEC_KEYS: is not set: .* or off"):
        await Backend.connect(settings.model_copy(update={"codec_keys": None}), stack.temporal_address)
    assert data_converter(SecretStr(OFF)).payload_codec is not None


def test_new_keys_are_different_each_time():
    first, second = new_keys(), new_keys()
    assert EncryptionCodec(first).key_ids != EncryptionCodec(second).key_ids


async def test_a_payload_without_its_key_or_changed_is_refused():
    [made] = await EncryptionCodec(OLD).encode([PAYLOAD])
    assert made.metadata["encoding"] == ENCODING
    changed = Payload(metadata=made.metadata, data=made.data[:-1] + bytes([made.data[-1] ^ 1]))
    for codec, payload in ((EncryptionCodec(OTHER), made), (EncryptionCodec(OLD), changed)):
        with pytest.raises(InvalidInput, match="no key of PARLEY_CODEC_KEYS decrypts"):
            await codec.decode([payload])


@pytest.mark.parametrize("keys", ["", "a", "a:", "a:c2hvcnQ=", f"{OLD},{OLD}", f"{OLD},", ":" + OLD.partition(":")[2]])
def test_invalid_keys_are_refused_without_being_quoted(keys: str):
    with pytest.raises(InvalidInput, match="PARLEY_CODEC_KEYS") as caught:
        EncryptionCodec(keys)
    assert OLD.partition(":")[2] not in str(caught.value)
