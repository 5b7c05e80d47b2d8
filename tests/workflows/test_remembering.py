"""What is said in one conversation is known in another, and its extraction delays no answer."""

import asyncio

import pytest

from parley import Client, Settings
from parley.domain.conversation.contract import TURNS_PER_EXTRACTION
from tests.parts import SimulatorAdmin, by_meaning

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """What is said in other words is found by its meaning."""
    return by_meaning(settings)


async def remembered(client: Client, user: str, count: int) -> list[str]:
    async with asyncio.timeout(30):
        while len(found := await client.memory.show(user)) < count:
            await asyncio.sleep(0.05)
    return [memory.text for memory in found]


async def test_another_conversation_knows_what_was_said(client: Client, simulator: SimulatorAdmin):
    first = client.conversation("first", user_id="ann")
    said = ("Hi! I live in Bergen.", "Do I live in Rome?", "My dog is called Rex.", "I moved to Oslo.")
    for text in (*said, *["Thanks."] * (TURNS_PER_EXTRACTION - len(said))):
        assert (await first.say(text)).success
    assert set(await remembered(client, "ann", 2)) == {"The user lives in Oslo", "The user's dog is named Rex"}
    second = client.conversation("second", user_id="ann")
    answer = await second.say("What is the name of my dog?")
    assert "Rex" in (answer.content or "")
    other = client.conversation("third", user_id="bob")
    assert "Rex" not in ((await other.say("What is the name of my dog?")).content or "")
    assert await client.audit() == []


async def test_what_was_corrected_just_now_prevails_over_the_memory(client: Client):
    talk = client.conversation("first", user_id="ann")
    for text in ("I live in Bergen.", *["Thanks."] * (TURNS_PER_EXTRACTION - 1)):
        await talk.say(text)
    assert await remembered(client, "ann", 1) == ["The user lives in Bergen"]
    assert "Bergen" in ((await client.conversation("second", user_id="ann").say("Where is my home?")).content or "")
    await talk.say("Actually, we moved to Oslo last month.")
    answer = await talk.say("Where is my home?")
    assert "Oslo" in (answer.content or "")
    assert "Bergen" not in (answer.content or "")
