"""No text of a user, a provider or a file controls the terminal."""

import io
import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console
from temporalio.client import Client as TemporalClient

from parley import Client
from parley.cli import console, display
from parley.cli.console import printable
from parley.domain.costs import CostLine, Costs
from parley.settings import Settings
from parley.storage.database import Database
from tests.cli.command import Run
from tests.parts import SAMPLES, running_workers
from tests.providers.vendors import KEY, answering, openai_body

# Set the title (OSC, ended by BEL or ST), clear the screen (CSI), the same in C1, reverse the text's order.
HOSTILE = "a\x1b]0;title\x07b\x1b[2J\x1b\\c\x9b2J\x9d0;t\x9cd\x08\x7f\re\u202ef\u2066g\u2028h"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
SAMPLE = SAMPLES / "cold-call-logistics.json"


def harmless(text: str) -> bool:
    return not OBEYED.search(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ("progress", HOSTILE),
        ("results", HOSTILE),
        ("cancel", HOSTILE),
        ("energy", "show", HOSTILE),
        ("feedback", HOSTILE, "good"),
        ("feedback", "request", HOSTILE),
        ("analyze", f"/{HOSTILE}.json"),
        ("analyze", SAMPLE, f"--{HOSTILE}"),
        ("analyze", SAMPLE, "--model", HOSTILE),
        ("auto-analyze", "x.jsonl", "--sessions-per-stream", HOSTILE),
        ("generate", "hello", "--user", "ann", "--schema", f"/{HOSTILE}"),
        ("prompts", HOSTILE),
        ("report", "--since", HOSTILE),
        ("report", HOSTILE),
        ("config", "show", HOSTILE),
        (HOSTILE,),
    ],
    ids=lambda arguments: arguments[0] if arguments[0] != HOSTILE else "command",
)
async def test_an_argument_is_quoted_in_an_error_without_effect(
    arguments: tuple[str, ...], parley: Run, client: Client
) -> None:
    ran = await parley(*arguments)
    assert ran.out + ran.err
    assert harmless(ran.out + ran.err)


async def test_an_id_has_no_effect_in_tables_or_json(parley: Run, tmp_path: Path, worker: None) -> None:
    user = HOSTILE.replace("\x00", "")
    session = json.loads(SAMPLE.read_text()) | {"user_id": f"{user}[link=http://x]y", "session_id": user}
    file = tmp_path / "session.json"
    file.write_text(json.dumps(session))
    shown = await parley("analyze", file)
    assert shown.code == 0, shown.err
    assert harmless(shown.out + shown.err)
    for command in (("report", "users"), ("report", "users", "--csv", "-"), ("costs",), ("ledger", "audit")):
        ran = await parley(*command)
        assert (ran.code, harmless(ran.out)) == (0, True), command
    as_json = (await parley("report", "users", "--json")).out
    assert harmless(as_json)
    assert json.loads(as_json)["lines"][0]["user_id"] == session["user_id"]


async def test_an_answer_keeps_its_tabs_and_lines_and_has_no_effect(
    parley: Run, temporal: TemporalClient, database: Database, settings: Settings
) -> None:
    body = openai_body(content=f"1\t{HOSTILE}\n2\t[bold]x[/bold]")
    async with answering(body) as vendor:
        keys = {"openai_api_key": SecretStr(KEY), "openai_base_url": f"{vendor.url}/v1"}
        async with running_workers(temporal, database, settings.model_copy(update=keys)):
            ran = await parley("generate", "write a table", "--user", "ann", "--model", "gpt-4o-mini")
    assert ran.code == 0, ran.err
    assert harmless(ran.out + ran.err)
    assert ran.out.startswith("1\ta")
    assert ran.out.endswith("\n2\t[bold]x[/bold]\n")


def test_markup_in_a_text_is_not_a_link(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = CostLine(
        action="[link=http://x]a[/link]", provider="openai", model="[red]m", simulated=False, attempts=1,
        tokens_total=1, audio_seconds=Decimal(0), confirmed_usd=Decimal(0), uncertain_usd=Decimal(0), energy_charged=0,
    )  # fmt: skip
    monkeypatch.setattr(console.out, "_force_terminal", True)
    console.out.print(display.costs(Costs(lines=(line,))))
    assert "]8;" not in capsys.readouterr().out


def test_rich_controls_the_terminal_and_a_text_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    screen = console.SafeConsole(force_terminal=True, width=40)
    screen.print(f"[red]{HOSTILE}[/red]")
    shown = capsys.readouterr().out
    assert "\x1b[31m" in shown
    assert harmless(re.sub("\x1b\\[[0-9;]*m", "", shown))
    assert isinstance(screen, Console)


def test_text_in_any_language_stays_as_it_is() -> None:
    text = "tab\there\nשלום\u200f مرحبا\u200e naïve 🙂\u200d↔ 例"
    assert printable(text) == text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding, errors="backslashreplace"))
    console.show_json_line({"said": "Caf\xe9 \U0001f600"})
    assert json.loads(written.getvalue()) == {"said": "Caf\xe9 \U0001f600"}
