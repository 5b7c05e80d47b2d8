"""`parley up` and `parley demo`: the embedded stack with Parley's worker, schema and sample data."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import SecretStr
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.panel import Panel

from parley.cli import display
from parley.client.client import Client
from parley.client.reading import read_recording, read_session
from parley.connection import forget_other_servers
from parley.domain.gateway_keys import Scope, hash_of
from parley.domain.generate.contract import GenerateResult
from parley.domain.requests import Provider
from parley.process import command
from parley.settings import Settings, variable
from parley.storage import gateway_keys
from parley.storage.migrate import migrate
from parley.visibility import DEFINITIONS
from starter.embedded import Addresses
from starter.embedded.stack import EmbeddedStack
from starter.embedded.state import StateDir

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
SHORT = "gatekeeper-dental-clinic.json"
# A recording alone, with the user on channel 1.
RECORDING = Path("recordings") / "two-channels.ogg"
LONG = "discovery-bakery-maintenance.json"
CHATS = Path("chats") / "support.jsonl"
DEVELOPMENT_REQUESTS = 60_000
QUESTION = "Which formats can I export?"
# What the first turn of a conversation says, and what its last turn asks, after it was condensed.
FACT, ASKED = "My dog is called Rex, and I work at a dental clinic.", "What is my dog called?"
QUESTIONS, TURNS_BETWEEN = Path("questions") / "pairs.jsonl", 20
# The number that simulated phone calls go to, and the number of the person that they are transferred to.
PHONE_NUMBER, PERSON_NUMBER = "+15550100002", "+15550100003"
DEMO_LATENCY = 0.2
VENDORS = tuple(variable(f"{provider.value}_{part}") for provider in Provider for part in ("api_key", "base_url"))


def forget_vendors() -> None:
    """Remove the vendors' keys and addresses from this process and from those that it starts."""
    for name in VENDORS:
        os.environ.pop(name, None)


def hints() -> list[str]:
    """Commands to try. The samples are in the repository, or in the installed package."""
    samples = SAMPLES.relative_to(Path.cwd()) if SAMPLES.is_relative_to(Path.cwd()) else SAMPLES
    return [
        command("analyze", str(samples / RECORDING), "--user-channel", "1"),
        command("auto-analyze", str(samples / CHATS)),
        command("generate", "Write a subject line for a follow-up", "--user", "operator"),
    ]


async def up(settings: Settings, *, fresh: bool, latency: float, console: Console) -> None:
    """Run the stack until a stop signal comes or a part dies.

    Raises:
        PartFailed: a part did not start or died; the error names its log.
        StackRunning: another stack uses the state directory.
    """

    forget_other_servers()

    async def announce(addresses: Addresses) -> None:
        _print_addresses(addresses, console)
        key = await _development_key(settings, StateDir(settings.state_dir), addresses)
        console.print(f"Gateway      [bold]{addresses.gateway_url}[/bold]")
        console.print(
            f"Its key      [bold]{key}[/bold] (workspace default, for development)", highlight=False, soft_wrap=True
        )
        await _set_up_phone(settings, addresses)
        console.print(
            f"Phone number [bold]{PHONE_NUMBER}[/bold] (simulated: {command('phone', 'simulate')} calls it)",
            highlight=False,
            soft_wrap=True,
        )
        console.print("Ctrl-C stops everything. In another terminal, for example:")
        for hint in hints():
            console.print(f"  [bold]{escape(hint)}[/bold]", highlight=False, soft_wrap=True)

    options = {"latency": latency, "fresh": fresh, "restart_worker": True, "gateway": "gateway", "announce": announce}
    stack = _stack(settings, settings.state_dir, console, **options)
    async with stack:
        await stack.wait()


async def demo(settings: Settings, *, keep: bool, console: Console) -> None:
    """Run every job on sample data, on a temporary stack.

    Raises:
        PartFailed: a part did not start or died; the error has the end of its log.
    """
    forget_other_servers()
    used = [name for name in VENDORS if name in os.environ]
    if used:
        console.print(f"[yellow]{', '.join(used)}: these vendors answer, and this demo spends money there.[/yellow]")
    else:
        console.print("Only the simulator answers: no vendor is called, and no money is spent (--real uses your keys).")
    state = settings.state_dir / f"demo-{uuid4().hex[:8]}"
    stack = _stack(settings, state, console, latency=DEMO_LATENCY, temporary=True)
    async with stack as addresses:
        await _run_jobs(settings, addresses, console)
        if keep:
            _print_addresses(addresses, console)
            console.print("Look at the workflow in the Temporal UI; Ctrl-C stops everything.")
            await stack.wait()
        else:
            hint = f"To look at a job in the Temporal UI, run {command('up')} and a command that it names."
            console.print(hint, highlight=False, soft_wrap=True)


async def _development_key(settings: Settings, state: StateDir, addresses: Addresses) -> str:
    """The gateway's development key, which stays the same until the data is erased.

    The state directory has it, readable by its owner only: it also has the password of the database.
    """
    secret = state.read_gateway_key()
    async with await _connect(settings, addresses) as client:
        if secret is not None:
            async with client.database.transaction() as tx:
                known = await gateway_keys.find(tx, hash_of(secret))
            if known is not None and known.is_valid(datetime.now(UTC)):
                return secret
        made = await client.gateway_keys.create(
            "development key of `parley up`",
            scopes=tuple(Scope),
            requests_per_minute=DEVELOPMENT_REQUESTS,
            concurrent_streams=1000,
        )
    state.write_gateway_key(made.secret)
    return made.secret


async def _set_up_phone(settings: Settings, addresses: Addresses) -> None:
    """Give the development workspace a number that answers simulated phone calls, unless it has one."""
    async with await _connect(settings, addresses) as client:
        if not await client.phone.numbers():
            await client.phone.set_number(PHONE_NUMBER, {"transfer_to": PERSON_NUMBER})


async def _connect(settings: Settings, addresses: Addresses) -> Client:
    changes = {"database_url": SecretStr(addresses.database_url), "codec_keys": SecretStr(addresses.codec_keys)}
    own = settings.model_copy(update=changes)
    return await Client.connect(settings=own, temporal_address=addresses.temporal_address)


async def _run_jobs(settings: Settings, addresses: Addresses, console: Console) -> None:
    async with await _connect(settings, addresses) as client:
        short = await client.analyze(audio=read_recording(SAMPLES / RECORDING)[0], user_channel=1)
        long = await client.analyze(read_session(SAMPLES / LONG))
        chats = await client.import_chats(SAMPLES / CHATS)
        console.print(f"{display.counted(chats.sessions, 'chat session')} imported, {chats.tokens:,} tokens")
        labels = await client.auto_analyze(chats.dataset_id, user_id="operator")
        for job in (short, long, labels):
            console.print(f"\n[bold]{escape(job.id)}[/bold]")
            console.print(display.report(await display.watched(console, job)))
        answer = await client.generate(QUESTION, user_id="operator")
        console.print(_answer_panel("Generate", QUESTION, answer))
        await _converse(client, console)
        console.print(display.disagreements(await client.audit()))


async def _converse(client: Client, console: Console) -> None:
    """Say something in a conversation, talk about other things until it is condensed, and ask for it."""
    talk = client.conversation("demo", user_id="operator")
    lines = (SAMPLES / QUESTIONS).read_text(encoding="utf-8").splitlines()[:TURNS_BETWEEN]
    console.print(f"\n[bold]A conversation[/bold] begins with: {FACT} {TURNS_BETWEEN} other questions follow.")
    for text in (FACT, *(json.loads(line)["one"] for line in lines)):
        await talk.say(text)
    answer = await talk.say(ASKED)
    context = await talk.context()
    is_there = any(one.text == FACT for one in context)
    console.print(display.conversation(await talk.history(), await talk.cost()))
    console.print(
        f"The last turn was answered from {len(context)} messages, {'with' if is_there else 'without'} the first one: "
        "what came before the last exchanges is a summary, and what the user said is remembered."
    )
    console.print(_answer_panel("Conversation", ASKED, answer))


def _answer_panel(title: str, question: str, result: GenerateResult) -> RenderableType:
    if result.refusal is not None:
        text = f"refused: {escape(result.refusal.message)}"
    else:
        text = f"{escape(result.content or '')}\n[dim]{escape(display.story(result.meta))}[/dim]"
    return Panel(f"[bold]{escape(question)}[/bold]\n{text}", title=title, title_align="left")


def _stack(settings: Settings, state: Path, console: Console, *, latency: float, **options: Any) -> EmbeddedStack:
    async def run_migrations(url: str) -> None:
        await migrate(SecretStr(url))

    return EmbeddedStack(
        state,
        search_attributes=DEFINITIONS,
        migrate=run_migrations,
        simulator_latency=latency,
        drain=settings.drain_seconds,
        on_progress=lambda line: console.print(f"[dim]{escape(line)}[/dim]"),
        **options,
    )


def _print_addresses(addresses: Addresses, console: Console) -> None:
    console.print(f"Temporal UI  [bold]{addresses.ui_url}[/bold]")
    console.print(f"Temporal     {addresses.temporal_address}")
    console.print(
        f"Simulator    {addresses.simulator_url} (for tests: it replaces providers that have no key)", soft_wrap=True
    )
