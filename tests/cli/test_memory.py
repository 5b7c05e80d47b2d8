"""`client.memory` and `parley memory`: what is remembered is shown, corrected and forgotten."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from parley import Client, InvalidInput, MemoryChanged, NotFound
from parley.domain.conversation.memory import Changes, Memory
from parley.storage import memories
from parley.storage.database import Database
from parley.storage.tables import utc_now
from tests.cli.command import Run

WORKSPACE = "acme"


async def remembered(database: Database, value: str, workspace: str = WORKSPACE, **changes: Any) -> Memory:
    """A stored memory of ada's."""
    known = {"subject": "user", "predicate": "lives_in", "confidence": 0.9, "importance": 0.7}
    known |= {"conversation_id": "chat", "turn_id": "t1", "valid_from": utc_now() - timedelta(days=1)}
    memory = Memory(id=uuid4(), value=value, **{**known, **changes})
    async with database.transaction() as tx:
        await memories.apply(tx, workspace, "ada", Changes(added=(memory,)))
    return memory


async def test_a_memory_is_shown_corrected_and_forgotten(parley: Run, database: Database):
    memory = await remembered(database, "Bergen")
    shown = await parley("memory", "show", "ada", "-w", WORKSPACE)
    assert "The user lives in Bergen" in shown.out
    assert "chat t1" in shown.out
    corrected = await parley("memory", "correct", "ada", memory.id, "Oslo", "-w", WORKSPACE)
    assert (corrected.code, corrected.out) == (0, "The user lives in Oslo\n")
    listed = json.loads((await parley("memory", "show", "ada", "--all", "-w", WORKSPACE, "--json")).out)
    assert [(one["value"], one["valid_until"] is None) for one in listed] == [("Oslo", True), ("Bergen", False)]
    forgotten = await parley("memory", "forget", "ada", listed[0]["id"], "-w", WORKSPACE, "--json")
    assert json.loads(forgotten.out) == {"forgotten": 1}
    assert (await parley("memory", "show", "ada", "-w", WORKSPACE)).out == "nothing is remembered\n"
    assert json.loads((await parley("memory", "forget", "ada", "--all", "-w", WORKSPACE, "--json")).out) == {
        "forgotten": 1
    }
    assert json.loads((await parley("memory", "show", "ada", "--all", "-w", WORKSPACE, "--json")).out) == []


async def test_a_corrected_memory_as_json_is_the_new_one(parley: Run, database: Database):
    memory = await remembered(database, "Bergen")
    made = json.loads((await parley("memory", "correct", "ada", memory.id, "Oslo", "-w", WORKSPACE, "--json")).out)
    assert (made["value"], made["confidence"], made["conversation_id"]) == ("Oslo", 1.0, "")
    assert made["id"] != str(memory.id)


async def test_a_memory_that_was_replaced_is_not_corrected_again(parley: Run, database: Database):
    memory = await remembered(database, "Bergen")
    await parley("memory", "correct", "ada", memory.id, "Oslo", "-w", WORKSPACE)
    again = await parley("memory", "correct", "ada", memory.id, "Paris", "-w", WORKSPACE)
    assert (again.code, "'Oslo'" in again.err) == (2, True)
    listed = json.loads((await parley("memory", "show", "ada", "-w", WORKSPACE, "--json")).out)
    assert [one["value"] for one in listed] == ["Oslo"]


async def test_of_two_corrections_at_once_one_is_made(client: Client):
    memory = await remembered(client.database, "Bergen", client.workspace_id)
    corrections = [client.memory.correct("ada", memory.id, value) for value in ("Oslo", "Paris")]
    made = await asyncio.gather(*corrections, return_exceptions=True)
    [refused] = [one for one in made if isinstance(one, MemoryChanged)]
    assert "show the memories again" in str(refused)
    assert await client.memory.show("ada") == [one for one in made if one is not refused]


@pytest.mark.parametrize("arguments", [(), ("--all", "0" * 32), ("not an id",)])
async def test_what_to_forget_must_be_said(arguments: tuple[str, ...], parley: Run, database: Database):
    await remembered(database, "Bergen")
    ran = await parley("memory", "forget", "ada", *arguments, "-w", WORKSPACE)
    assert (ran.code, "Traceback" in ran.err) == (2, False)
    assert "Bergen" in (await parley("memory", "show", "ada", "-w", WORKSPACE)).out


async def test_another_workspaces_memory_is_not_found(parley: Run, database: Database):
    memory = await remembered(database, "Bergen")
    for command in (("forget", "ada", memory.id), ("correct", "ada", memory.id, "Oslo")):
        assert (await parley("memory", *command, "-w", "globex")).code == 2
    assert (await parley("memory", "show", "ada", "-w", "globex")).out == "nothing is remembered\n"


async def test_a_text_that_a_terminal_would_obey_is_shown(parley: Run, database: Database):
    await remembered(database, "Bergen\x1b]0;title\x07")
    assert "\x1b" not in (await parley("memory", "show", "ada", "-w", WORKSPACE)).out


@pytest.mark.parametrize("value", ["", " \u200b", "x" * 201, "a\x00b", "a\ud800b"])
async def test_a_value_that_cannot_be_stored_is_refused(value: str, client: Client):
    memory = await remembered(client.database, "Bergen", client.workspace_id)
    with pytest.raises(InvalidInput, match="value"):
        await client.memory.correct("ada", memory.id, value)
    assert [one.value for one in await client.memory.show("ada")] == ["Bergen"]


async def test_a_memory_that_is_not_the_users_is_not_found(client: Client):
    memory = await remembered(client.database, "Bergen", client.workspace_id)
    with pytest.raises(NotFound):
        await client.memory.forget("bob", memory.id)
    with pytest.raises(NotFound):
        await client.memory.correct("bob", memory.id, "Oslo")
    assert await client.memory.forget("bob") == 0
    assert len(await client.memory.show("ada")) == 1
