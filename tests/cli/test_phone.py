"""`parley phone`: numbers are set up, phone calls are listed and shown."""

import json
from pathlib import Path

from parley.client.generate import generate_input
from parley.client.phone import new_call
from parley.domain.conversation.contract import NewTurn
from parley.domain.phone.contract import TurnMeasures
from parley.domain.phone.settings import NumberSettings
from parley.storage import conversations, phone_calls
from parley.storage.database import Database
from tests.cli.command import Run

WORKSPACE, NUMBER = ("-w", "acme"), "+15550100002"


async def spoken(database: Database) -> None:
    """A stored phone call with one turn, of which the caller heard a part."""
    call = new_call("acme", "CA1", NumberSettings(), number=NUMBER, caller="+15550100001")
    asked = generate_input("acme", "Which formats?", user_id=call.user_id)
    async with database.transaction() as tx:
        await phone_calls.begin(tx, call)
        await conversations.begin_turn(tx, NewTurn.of("CA1", "CA1:1", asked))
        await conversations.start_turn(tx, "acme", "CA1", "CA1:1")
        await conversations.end_turn(tx, "acme", "CA1", "CA1:1", outcome="completed", answer="CSV and PDF.")
        await phone_calls.measure(tx, "acme", "CA1", "CA1:1", TurnMeasures(heard="CSV", response_ms=420))


async def test_numbers_are_set_listed_and_removed(parley: Run, tmp_path: Path):
    path = tmp_path / "number.json"
    path.write_text(json.dumps({"language": "en-GB", "transfer_to": "+15550100099"}))
    assert (await parley("phone", "numbers", "set", NUMBER, "--settings", path, *WORKSPACE)).code == 0
    [listed] = json.loads((await parley("phone", "numbers", "list", *WORKSPACE, "--json")).out)
    assert (listed["number"], listed["settings"]["language"]) == (NUMBER, "en-GB")
    assert "+15550100099" in (await parley("phone", "numbers", "list", *WORKSPACE)).out
    taken = await parley("phone", "numbers", "set", NUMBER, "-w", "globex")
    assert (taken.code, "belongs to another workspace" in taken.err) == (2, True)
    assert (await parley("phone", "numbers", "remove", NUMBER, "-w", "globex")).code == 2
    assert (await parley("phone", "numbers", "remove", NUMBER, *WORKSPACE)).code == 0
    assert (await parley("phone", "numbers", "list", *WORKSPACE)).out == "no numbers\n"


async def test_settings_that_are_not_valid_name_the_place(parley: Run, tmp_path: Path):
    path = tmp_path / "number.json"
    for text, said in (
        ("{", "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "JSON object"),
        ('{"voise": "a"}', "voise"),
    ):
        path.write_text(text)
        refused = await parley("phone", "numbers", "set", NUMBER, "--settings", path, *WORKSPACE)
        assert (refused.code, said in refused.err) == (2, True), refused.err
    assert (await parley("phone", "numbers", "set", "5550100", *WORKSPACE)).code == 2


async def test_phone_calls_are_listed_and_shown(parley: Run, database: Database):
    await spoken(database)
    assert "CA1" in (await parley("phone", "calls", *WORKSPACE)).out
    assert (await parley("phone", "calls", "-w", "globex")).out == "no phone calls\n"
    assert [one["call_sid"] for one in json.loads((await parley("phone", "calls", "--open", *WORKSPACE, "--json")).out)]
    shown = await parley("phone", "show", "CA1", *WORKSPACE)
    assert "CSV and PDF." in shown.out
    assert "420 ms" in shown.out
    [turn] = json.loads((await parley("phone", "show", "CA1", *WORKSPACE, "--json")).out)["transcript"]
    assert (turn["answer"], turn["heard"]) == ("CSV and PDF.", "CSV")
    assert (await parley("phone", "show", "CA1", "-w", "globex")).code == 2


async def test_dialling_says_what_is_missing(parley: Run):
    await parley("phone", "numbers", "set", NUMBER, *WORKSPACE)
    for arguments, said in (
        (("+15550100001", "--from", NUMBER), "TWILIO_ACCOUNT_SID"),
        (("+15550100001", "--from", "+15550100003"), "does not have the number"),
        (("5550100001", "--from", NUMBER), "country"),
        (("+15550100001", "--from", NUMBER, "--parameter", "a"), "NAME=VALUE"),
    ):
        refused = await parley("phone", "dial", *arguments, *WORKSPACE)
        assert (refused.code, said in refused.err) == (2, True), refused.err
