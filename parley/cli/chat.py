"""`parley chat`: a conversation in the terminal, or the lines of a pipe as its turns."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any
from uuid import uuid4

import typer

from parley import (
    Client,
    ConversationBusy,
    ConversationClosed,
    ConversationHandle,
    GenerateResult,
    GenerateStream,
    InvalidInput,
    ParleyError,
    Settings,
    TextDelta,
    Unreachable,
)
from parley.cli import display
from parley.cli.console import (
    Json,
    Workspace,
    checked_key,
    command_in,
    err,
    known_in_policy,
    out,
    show_json_line,
    silence_temporal,
)
from parley.cli.display import counted, usd
from parley.domain.generate.contract import DEFAULT_ACTION

app = typer.Typer()

PROMPT = "> "
HELP = """/context  the messages that the last turn was answered with
/memory   what is remembered of the user
/cost     what the conversation has cost
/close    close the conversation: it takes no further turn
/help     this list
Ctrl-D ends; the conversation stays open. A line that begins with // is a turn that begins with /."""


@app.command()
def chat(
    conversation_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The conversation to begin or to continue; default: a new one.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Whose conversation it is, and whose energy pays; default: the user of ID.")
    ] = None,
    action: Annotated[str, typer.Option(help="The kind of request: it decides price and policy.")] = DEFAULT_ACTION,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: the same lines under the same key are sent once.")
    ] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Hold a conversation: each line of stdin is a turn, and /help shows the commands."""
    key = checked_key(key)
    known_in_policy("--action", action, {DEFAULT_ACTION, *Settings().policy().action})
    silence_temporal()
    # The loop runs while a turn is answered, and not while a line is typed: Ctrl-C then ends the reading of the line.
    with asyncio.Runner() as runner:
        client = runner.run(Client.connect(workspace_id=workspace))
        try:
            talk = runner.run(_opened(client, conversation_id, user))
            held = Chat(client, talk, action=action, key=key, as_json=as_json)
            held.hold(runner)
        finally:
            runner.run(client.close())
    if held.is_unanswered and not held.is_typed:
        raise typer.Exit(1)


async def _opened(client: Client, conversation_id: str | None, user: str | None) -> ConversationHandle:
    """The conversation, perhaps a new one; its user is only known of one that exists."""
    if user is not None:
        new_id = f"chat-{uuid4().hex[:12]}"
        return client.conversation(new_id if conversation_id is None else conversation_id, user_id=user)
    if conversation_id is None:
        raise InvalidInput("is missing: name the user whose conversation it is", where="--user")
    return await client.find_conversation(conversation_id)


class Chat:
    """One conversation at a terminal or a pipe.

    is_typed: whether a person types the turns. is_unanswered: whether a turn ended without an answer.
    """

    def __init__(
        self, client: Client, talk: ConversationHandle, *, action: str, key: str | None, as_json: bool
    ) -> None:
        self._client, self._talk, self._action, self._key, self._as_json = client, talk, action, key, as_json
        self.is_typed = sys.stdin.isatty()
        self.is_unanswered, self._is_over = False, False
        self._sent = 0
        # A turn that may not have arrived, with its id.
        self._unsent: tuple[str, str] | None = None
        self._commands: dict[str, Callable[[], Awaitable[None]]] = {
            "/context": self._context,
            "/memory": self._memory,
            "/cost": self._cost,
            "/close": self._close,
            "/help": self._help,
        }

    def hold(self, runner: asyncio.Runner) -> None:
        """Take the lines one after the other, until the last one, Ctrl-C or `/close`."""
        runner.run(self._begin())
        try:
            for line in _typed() if self.is_typed else _piped():
                runner.run(self._take(line))
                if self._is_over:
                    return
        finally:
            if not self._is_over:
                words = ("chat", self._talk.id, "--user", self._talk.user_id)
                err.say(f"continue with: {command_in(self._client.workspace_id, *words)}", style="dim")

    async def _begin(self) -> None:
        talk = self._talk
        if self._as_json:
            show_json_line({"conversation_id": talk.id, "user_id": talk.user_id})
            return
        err.say(f"conversation {talk.id} of {talk.user_id}; /help shows the commands", style="dim")
        if self.is_typed:
            with suppress(ParleyError):  # it is new, or no server answers: the first turn says so
                await self._show_last()

    async def _show_last(self) -> None:
        """Show the last turn of a conversation that is continued. One that is being answered is followed."""
        ended = (await self._talk.state()).turns
        for turn in await self._talk.history(after=max(ended - 1, 0)):
            out.say(f"{PROMPT}{turn.text}")
            async with self._talk.follow(turn.turn_id) as answer:
                await self._show(answer)

    async def _take(self, line: str) -> None:
        """Do what a line says. An error ends a pipe; a person reads it, and goes on."""
        try:
            await self._obey(line)
        except ParleyError as error:
            if not self.is_typed:
                # A conversation that is closed, or another user's, cannot be continued.
                self._is_over = isinstance(error, (ConversationClosed, InvalidInput))
                raise
            err.say(f"parley: {error}")
            if self._unsent and not isinstance(error, (Unreachable, ConversationBusy)):
                self._unsent = None
            if self._unsent:
                err.say("An empty line sends it again, as the same turn.", style="dim")

    async def _obey(self, line: str) -> None:
        if not line.strip():
            if self._unsent:
                await self._say(*self._unsent)
        elif line.startswith("/") and not line.startswith("//"):
            name = line.strip()
            if name not in self._commands:
                raise InvalidInput(f"is not a command: /help lists them, and //{name[1:]} is a turn", where=name)
            await self._commands[name]()
        else:
            self._sent += 1
            turn_id = uuid4().hex if self._key is None else f"{self._key}-{self._sent}"
            await self._say(line[1:] if line.startswith("//") else line, turn_id)

    async def _say(self, text: str, turn_id: str) -> None:
        self._unsent = (text, turn_id)
        async with self._talk.stream(text, turn_id=turn_id, action=self._action) as answer:
            await self._show(answer)
        self._unsent = None

    async def _show(self, answer: GenerateStream) -> None:
        """Print an answer while it is made, and where it comes from."""
        async for delta in answer:
            if self._as_json:
                show_json_line(delta)
            elif isinstance(delta, TextDelta):
                out.begin(delta.text)
        result = await answer.result()
        self.is_unanswered = self.is_unanswered or not result.success
        show_json_line(result) if self._as_json else _show_end(result)

    # Commands

    async def _context(self) -> None:
        messages = await self._talk.context()
        if self._as_json:
            show_json_line({"context": [message.model_dump(mode="json") for message in messages]})
            return
        for message in messages:
            out.say(f"{message.role}: {message.text}")

    async def _memory(self) -> None:
        # What a user's memories are is a part of its own, which an installation may be without.
        memory: Any = getattr(self._client, "memory", None)
        if memory is None:
            raise InvalidInput("is not there: this version of Parley has no memories", where="/memory")
        found = await memory.show(self._talk.user_id)
        if self._as_json:
            show_json_line({"memory": [one.model_dump(mode="json") for one in found]})
            return
        for one in found:
            out.say(one.text)
        if not found:
            out.say("nothing is remembered")

    async def _cost(self) -> None:
        cost, state = await self._talk.cost(), await self._talk.state()
        if self._as_json:
            show_json_line(
                {"cost": {**cost.model_dump(mode="json"), "total_usd": str(cost.total_usd), "turns": state.turns}}
            )
            return
        out.say(f"{counted(state.turns, 'turn')}, {state.tokens} tokens: ${usd(cost.total_usd)}")
        out.say(f"answers ${usd(cost.answers_usd)}, between turns ${usd(cost.upkeep_usd)}")
        prompts = usd(cost.prompt_cache_saved_usd)
        out.say(f"saved by the cache ${usd(cost.saved_usd)}, by the vendors' prompt caches ${prompts}")

    async def _close(self) -> None:
        await self._talk.close()
        self._is_over = True
        if self._as_json:
            show_json_line({"closed": self._talk.id})
        else:
            err.say(f"conversation {self._talk.id} is closed", style="dim")

    async def _help(self) -> None:
        err.say(HELP)


def _show_end(result: GenerateResult) -> None:
    """End the line of an answer. Its origin and cost go to stderr."""
    out.say("")
    if result.success:
        err.say(display.story(result.meta), style="dim")
    else:
        err.say(f"no answer: {getattr(result, 'reason', '')}", style="yellow")
    for warning in result.meta.warnings:
        err.say(f"warning: {warning}", style="yellow")


def _typed() -> Iterator[str]:
    """The lines that a person types, until Ctrl-D."""
    with suppress(ImportError):  # not on every system: lines are then typed without editing
        import readline  # noqa: F401, PLC0415 - `input` uses it
    prompt = PROMPT if sys.stdout.isatty() else ""
    while True:
        try:
            yield input(prompt)
        except EOFError:
            out.say("")
            return


def _piped() -> Iterator[str]:
    """The lines of a pipe or a file. A byte that is not UTF-8 is refused with its turn, as in an argument."""
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", "surrogateescape").rstrip("\r\n")
