"""`parley chat`: turns from a pipe and at a terminal, each sent once."""

import asyncio
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from uuid import uuid4

import pytest

from parley import Client, ConversationExport, Memory
from parley.domain.conversation.memory import Changes
from parley.process import command
from parley.storage import memories
from parley.storage.tables import utc_now
from tests.cli.command import Run
from tests.cli.test_terminal import HOSTILE, harmless
from tests.parts import TEST_TIMEOUT_SECONDS, SimulatorAdmin

pytestmark = pytest.mark.usefixtures("worker")

CHAT = ("chat", "talk", "--user", "ann")


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put lines into stdin."""

    def put(*lines: str | bytes) -> None:
        data = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return put


Piped = Callable[..., None]


async def test_each_line_of_a_pipe_is_a_turn(parley: Run, piped: Piped, client: Client) -> None:
    piped("My dog is called Rex.", "", "  ", "What is my dog called?")
    ran = await parley(*CHAT, "--workspace", client.workspace_id)
    assert ran.code == 0, ran.err
    turns = await client.conversation("talk", user_id="ann").history()
    assert [turn.text for turn in turns] == ["My dog is called Rex.", "What is my dog called?"]
    assert ran.out == "".join(f"{turn.answer}\n" for turn in turns)
    assert "openai gpt-4o-mini (simulated)" in ran.err
    again = command(*CHAT, "--workspace", client.workspace_id)
    assert ran.err.endswith(f"continue with: {again}\n")


async def test_as_json_each_line_is_one_value(parley: Run, piped: Piped) -> None:
    piped("Hello!", "/cost", "/context", "/close")
    ran = await parley(*CHAT, "--json")
    first, *deltas, result, cost, context, closed = map(json.loads, ran.out.splitlines())
    assert first == {"conversation_id": "talk", "user_id": "ann"}
    assert "".join(delta["text"] for delta in deltas) == result["content"]
    assert (result["number"], cost["cost"]["turns"]) == (1, 1)
    assert cost["cost"]["total_usd"] == result["meta"]["cost_usd"]
    assert context["context"][0]["content"] == "Hello!"
    assert closed == {"closed": "talk"}


async def test_a_conversation_is_continued_by_its_id(parley: Run, piped: Piped) -> None:
    piped("My dog is called Rex.")
    first = await parley("chat", "--user", "ann", "--json")
    new_id = json.loads(first.out.splitlines()[0])["conversation_id"]
    assert f"continue with: {command('chat', new_id, '--user', 'ann')}" in first.err
    piped("What is it called?", "/context")
    ran = await parley("chat", new_id)
    assert ran.code == 0, ran.err
    assert "user: My dog is called Rex.\n" in ran.out


async def test_the_same_lines_under_a_key_are_sent_once(parley: Run, piped: Piped, simulator: SimulatorAdmin) -> None:
    outs: list[str] = []
    for lines in (("One.", "Two."), ("One.", "Two.", "Three.")):
        piped(*lines)
        outs.append((await parley(*CHAT, "--key", "import-1")).out)
    assert outs[1].startswith(outs[0])
    assert len(await simulator.billed()) == 3


async def test_commands_are_obeyed_and_not_sent(parley: Run, piped: Piped, simulator: SimulatorAdmin) -> None:
    piped("/help", "//etc is a directory", "/cost", "/close")
    ran = await parley(*CHAT)
    assert ran.code == 0, ran.err
    assert "/context" in ran.err
    assert "1 turn, " in ran.out and "between turns $0" in ran.out
    assert ran.err.endswith("conversation talk is closed\n")
    # The text that is not a command, and the extraction of facts from it at the close.
    before = await simulator.requests(at_least=2)
    piped("Hello?")
    refused = await parley(*CHAT)
    assert (refused.code, "is closed" in refused.err) == (2, True)
    assert len(before) == len(await simulator.requests()) == 2


async def test_a_turn_without_an_answer_is_marked_and_exits_1(
    parley: Run, piped: Piped, simulator: SimulatorAdmin
) -> None:
    await simulator.fault("server_error", times=None)
    piped("Hello?")
    ran = await parley(*CHAT)
    assert ran.code == 1
    assert ran.out.startswith("I cannot answer now")
    assert "no answer: ProviderUnavailable" in ran.err


@pytest.mark.parametrize(
    ("arguments", "line", "said"),
    [
        (("chat",), "Hello!", "--user: is missing"),
        (("chat", "none"), "Hello!", "there is no conversation 'none'"),
        (("chat", "a/b", "--user", "ann"), "Hello!", "must not contain '/'"),
        ((*CHAT, "--action", "nope"), "Hello!", "--action: is not in the policy"),
        (CHAT, "/forget", "/forget: is not a command"),
        (CHAT, "nul \0", "contains"),
        (CHAT, b"caf\xe9", "contains"),
        (CHAT, "/context", "has no conversation"),
    ],
)
async def test_a_mistake_is_one_line_and_exit_code_2(
    parley: Run, piped: Piped, client: Client, arguments: tuple[str, ...], line: str | bytes, said: str
) -> None:
    piped(line)
    ran = await parley(*arguments, "--workspace", client.workspace_id)
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert said in ran.err
    assert await client.conversations() == []


async def test_no_text_of_a_conversation_controls_the_terminal(parley: Run, piped: Piped) -> None:
    text = HOSTILE.replace("\r", "")
    piped(text, "/context")
    ran = await parley("chat", "hostile", "--user", text)
    assert ran.code == 0, ran.err
    assert harmless(ran.out + ran.err)


class Terminal:
    """`parley chat` at a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        code = "import sys; from parley.cli.main import execute; sys.exit(execute())"
        command = [sys.executable, "-c", code, *arguments]
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    async def until(self, text: str) -> None:
        """Wait until the terminal has shown a text, after what was awaited before."""
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while text not in self.shown:
                self.shown += (await asyncio.to_thread(os.read, self._ours, 4096)).decode()
        self.shown = self.shown.partition(text)[2]

    async def ended(self) -> int:
        """The exit code, after everything was shown."""
        with suppress(OSError):  # the terminal has no other end any more
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                while data := await asyncio.to_thread(os.read, self._ours, 4096):
                    self.shown += data.decode()
        os.close(self._ours)
        return await asyncio.to_thread(self.process.wait, TEST_TIMEOUT_SECONDS)


@pytest.fixture
def terminals() -> Iterator[Callable[..., Terminal]]:
    """Open terminals; what still runs after the test is killed."""
    opened: list[Terminal] = []

    def open_one(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.process.kill()


async def test_at_a_terminal_ctrl_d_and_ctrl_c_end_cleanly(
    parley: Run, client: Client, simulator: SimulatorAdmin, terminals: Callable[..., Terminal]
) -> None:
    """Ctrl-C in the middle of an answer leaves it: it is completed, and shown when the conversation is continued."""
    arguments = (*CHAT, "--workspace", client.workspace_id)
    terminal = terminals(*arguments)
    await terminal.until("> ")
    terminal.type("/nope\n")
    await terminal.until("is not a command")
    terminal.type("My dog is called Rex.\n")
    await terminal.until("energy left")
    await simulator.gate(closed=True, provider="openai")
    terminal.type("What is it called?\n")
    await asked(simulator, 2)
    terminal.process.send_signal(signal.SIGINT)
    assert await terminal.ended() == 130
    assert "Traceback" not in terminal.shown
    assert f"continue with: {command(*arguments)}" in terminal.shown.replace("\r\n", "")

    terminal = terminals(*arguments)
    await terminal.until("> My dog is called Rex.")
    await terminal.until("> What is it called?")
    await simulator.gate(closed=False, provider="openai")
    await terminal.until("energy left")
    await terminal.until("> ")  # typed earlier, it would be lost when the editing of a line begins
    terminal.type("\x04")
    assert await terminal.ended() == 0
    assert len(await simulator.billed()) == 2
    assert [turn.text for turn in await client.conversation("talk", user_id="ann").history()] == [
        "My dog is called Rex.",
        "What is it called?",
    ]


async def asked(simulator: SimulatorAdmin, count: int) -> None:
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while len(await simulator.billed()) < count:
            await asyncio.sleep(0.02)


async def test_what_is_remembered_of_the_user_is_shown(parley: Run, piped: Piped, client: Client) -> None:
    memory = Memory(
        id=uuid4(),
        subject="user",
        predicate="lives_in",
        value="Bergen",
        confidence=1,
        importance=0.5,
        valid_from=utc_now(),
    )
    for name in (client.workspace_id, "another"):
        piped("/memory")
        assert (await parley(*CHAT, "--workspace", name)).out == "nothing is remembered\n"
    async with client.database.transaction() as tx:
        await memories.apply(tx, client.workspace_id, "ann", Changes(added=(memory,)))
    piped("/memory")
    assert (await parley(*CHAT, "--workspace", client.workspace_id)).out == "The user lives in Bergen\n"
    piped("/memory")
    as_json = await parley(*CHAT, "--workspace", client.workspace_id, "--json")
    assert json.loads(as_json.out.splitlines()[1])["memory"] == [memory.model_dump(mode="json")]
    piped("/memory")
    assert (await parley("chat", "--user", "bob", "--workspace", client.workspace_id)).out == "nothing is remembered\n"


async def test_conversations_are_listed_and_exported(parley: Run, piped: Piped, client: Client) -> None:
    of = ("--workspace", client.workspace_id)
    assert (await parley("conversations", "list", *of)).out == "no conversation\n"
    piped("My dog is called Rex.", HOSTILE.replace("\r", "").replace("\n", " "))
    await parley(*CHAT, *of)
    listed = (await parley("conversations", "list", *of)).out
    assert "talk" in listed and "ann" in listed
    assert json.loads((await parley("conversations", "list", *of, "--json")).out)[0]["turns"] == 2
    exported = await parley("conversations", "export", "talk", *of)
    assert harmless(exported.out)
    talk = client.conversation("talk", user_id="ann")
    assert ConversationExport.model_validate_json(exported.out) == await talk.export()
    missing = await parley("conversations", "export", "kalt", *of)
    assert (missing.code, missing.out) == (2, "")
    assert "there is no conversation 'kalt'" in missing.err
