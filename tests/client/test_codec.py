"""Prompts and answers are not in clear text in Temporal's history when there are keys."""

import base64
from uuid import uuid4

import pytest
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload

from parley import Backend, InvalidInput
from parley.codec import ENCODING, KEY_ID, EncryptionCodec
from parley.connection import connect
from parley.domain.generate.contract import workflow_id
from parley.settings import Settings
from parley.storage.database import Database
from starter.embedded import Addresses
from tests.parts import running_workers

OLD, NEW, OTHER = (f"{name}:{base64.b64encode(name[:1].encode() * 32).decode()}" for name in ("old", "new", "other"))
SECRET = "the merger with Paternoster"
PAYLOAD = Payload(metadata={"encoding": b"json/plain"}, data=b'"x"')


async def test_a_history_has_neither_prompt_nor_answer_in_clear_text(
    stack: Addresses, database: Database, settings: Settings
):
    keyed = settings.model_copy(update={"codec_keys": SecretStr(NEW)})
    temporal = await connect(stack.temporal_address, codec_keys=keyed.codec_keys)
    client = Backend(temporal, database, keyed).client(f"workspace-{uuid4().hex[:8]}")
    async with running_workers(temporal, database, keyed):
        answer = await client.generate(SECRET, user_id="ann", key="k")
    assert answer.content
    job_id = workflow_id(client.workspace_id, "k")
    history = (await (await connect(stack.temporal_address)).get_workflow_handle(job_id).fetch_history()).events
    stored = b"".join(event.SerializeToString() for event in history)
    assert b"encryption-key-id" in stored
    assert SECRET.encode() not in stored
    assert answer.content.encode() not in stored


async def test_keys_can_be_rotated():
    [before] = await EncryptionCodec(OLD).encode([PAYLOAD])
    both = EncryptionCodec(f"{NEW}, {OLD}")
    [after] = await both.encode([PAYLOAD])
    assert after.metadata[KEY_ID] == b"new"
    assert await both.decode([before, after, PAYLOAD]) == [PAYLOAD, PAYLOAD, PAYLOAD]


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
