"""The pages are true: fields are those of the contract, links have targets, commands and code run."""

import ast
import asyncio
import csv
import inspect
import json
import re
import shlex
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowFailureError
from typer.main import get_command

from parley import Backend, Client
from parley.cli.billed import read_billed
from parley.cli.main import app, execute
from parley.domain import errors
from parley.domain.generate.contract import WORKFLOW, GenerateInput, GenerateResult, Meta, Prompt, Refused
from parley.domain.generate.policy import ActionPolicy, Policy, parse_policy
from parley.domain.requests import Usage
from parley.settings import Settings
from parley.storage.database import Database
from samples.migrating import bulk_after, bulk_before, chat_after, chat_before, drafts_after, drafts_before
from samples.migrating.side_by_side import shadow
from starter.embedded import Addresses
from starter.embedded.services import temporal_binary
from tests.parts import ROOT, SAMPLES, SimulatorAdmin, running_workers

DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), ROOT / "examples" / "README.md"]
PATH = r"`((?:parley|workflows|activities|starter|simulator|samples|examples|tests|docs|deploy|benchmarks)/[\w/.-]*)`"
GENERATE = (DOCS / "generate.md").read_text(encoding="utf-8")
MIGRATING = (DOCS / "migrating.md").read_text(encoding="utf-8")
POLICY = SAMPLES / "migrating" / "policy.toml"
CONTRACT: tuple[type[BaseModel], ...] = (GenerateInput, Prompt, GenerateResult, Meta, Usage)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def shown_commands(page: str) -> list[tuple[list[str], str]]:
    """The words behind each `$ parley` of the page's console blocks, and what it shows as the output."""
    parts = re.split(r"^\$ parley ", "\n".join(blocks(page, "console")), flags=re.MULTILINE)
    return [(shlex.split(command), shown) for command, _, shown in (part.partition("\n") for part in parts[1:])]


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the table that follows a heading."""
    _, found, rest = page.partition(f"{heading}\n")
    assert found, heading
    rows = re.search(r"^\|.*?(?=\n\n|\Z)", rest, re.DOTALL | re.MULTILINE)
    assert rows, heading
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows[0].splitlines()[2:]]


def shown_in(pattern: str) -> list[Any]:
    """What a pattern finds on all pages, each with its page, as parameters of a test. Finding nothing is an error."""
    found = [
        pytest.param(page, match, id=f"{page.relative_to(ROOT)}:{match}")
        for page in PAGES
        for match in dict.fromkeys(re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE))
    ]
    assert found, pattern
    return found


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings, page
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


class TestPages:
    @pytest.mark.parametrize(("page", "link"), shown_in(r"\]\((?!https?:)([^)]+)\)"))
    def test_a_link_has_its_target(self, page: Path, link: str):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists()
        assert not anchor or anchor in anchors(target)

    @pytest.mark.parametrize(
        ("page", "command"), shown_in(r"^ {4}(?:\$ )?(?:\.venv/bin/)?parley ([a-z-]+)|^\$ parley ([a-z-]+)")
    )
    def test_a_command_is_known(self, page: Path, command: tuple[str, str]):
        assert "".join(command) in get_command(app).commands  # type: ignore[attr-defined]

    @pytest.mark.parametrize(("page", "target"), shown_in(r"^ {4,}make ([a-z]+)|`make ([a-z]+)`"))
    def test_a_make_target_is_known(self, page: Path, target: tuple[str, str]):
        [phony] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert "".join(target) in phony.split()

    @pytest.mark.parametrize(("page", "path"), shown_in(PATH))
    def test_a_named_file_exists(self, page: Path, path: str):
        assert (ROOT / path).exists()

    def test_every_page_is_linked_from_the_readme(self):
        readme = ROOT / "README.md"
        linked = {(ROOT / link).resolve() for link in re.findall(r"\]\(([^)#:]+)", readme.read_text(encoding="utf-8"))}
        others = {page for page in PAGES if page != readme}
        assert others
        assert others <= linked


class TestContract:
    @pytest.mark.parametrize(
        "model", [GenerateInput, Prompt, GenerateResult, Meta, Usage], ids=lambda one: one.__name__
    )
    def test_every_field_is_listed_with_its_type(self, model: type[BaseModel]):
        listed = [row[:3] for row in table(GENERATE, f"### `{model.__name__}`")]
        assert listed == [[f"`{name}`", type_of(model, name), default_of(model, name)] for name in model.model_fields]

    def test_every_key_of_the_policy_is_shown(self):
        """The example has a value for each key."""
        [example] = [block for block in blocks(GENERATE, "toml") if "[[route]]" in block]
        policy = parse_policy(example, where="docs/generate.md")
        [route, *_] = policy.route
        assert route.model_fields_set == set(type(route).model_fields)
        assert policy.model_fields_set == set(Policy.model_fields)
        assert any(one.model_fields_set == set(ActionPolicy.model_fields) for one in policy.action.values())

    def test_every_refusal_is_listed(self):
        assert {row[0].strip("`") for row in table(GENERATE, "## Refusals")} == {code.value for code in Refused}

    def test_the_listed_errors_exist(self):
        listed = {name for row in table(GENERATE, "## Errors") for name in re.findall(r"`([A-Z]\w+)`", row[0])}
        known = {name for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, Exception)}
        assert listed
        assert listed <= known


def type_of(model: type[BaseModel], name: str) -> str:
    schema = model.model_json_schema(mode="serialization")
    return _spelled(schema["properties"][name], schema.get("$defs", {}))


def _spelled(kind: dict[str, Any], known: dict[str, Any]) -> str:
    """A JSON schema's type in words."""
    if "$ref" in kind:
        kind = known[kind["$ref"].rpartition("/")[2]]
    if "enum" in kind:
        return ", ".join(f"`{value}`" if value else "empty" for value in kind["enum"])
    if "anyOf" in kind:
        options = [option for option in kind["anyOf"] if option != {"type": "null"}]
        return " or ".join(dict.fromkeys(_spelled(option, known) for option in options))
    if "items" in kind:
        return f"list of {_spelled(kind['items'], known)}"
    if kind.get("type") == "object":
        return f"`{kind['title']}`" if "properties" in kind else "object"
    bounds = {
        "at least": kind.get("minimum"),
        "above": kind.get("exclusiveMinimum"),
        "at most": kind.get("maximum"),
    }
    limits = "".join(f", {word} {limit}" for word, limit in bounds.items() if limit is not None)
    return kind.get("type", "any") + limits


def default_of(model: type[BaseModel], name: str) -> str:
    default = model.model_fields[name].default
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, BaseModel) or default in (None, "", ()):
        return ""
    return f"`{json.dumps(default, default=str)}`".replace('"', "")


@pytest.fixture
async def environment(stack: Addresses, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a service or a terminal."""
    values = {
        "DATABASE_URL": database_url,
        "TEMPORAL_ADDRESS": stack.temporal_address,
        "PARLEY_STATE_DIR": str(tmp_path / ".parley"),
        "COLUMNS": "110",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("worker", "environment")
class TestGeneratePage:
    async def test_its_commands_run(self, capsys: pytest.CaptureFixture[str]):
        await run_commands(GENERATE, capsys)

    async def test_its_python_runs(self, capsys: pytest.CaptureFixture[str]):
        await run_python(blocks(GENERATE, "python"))
        assert "'category'" in capsys.readouterr().out

    async def test_any_language_can_start_it(self, stack: Addresses, temporal: TemporalClient):
        command = re.search(r"^ +(temporal workflow start .*?}}?')", GENERATE, re.DOTALL | re.MULTILINE)
        assert command is not None
        _, *words = shlex.split(command[1].replace("\\\n", " "))
        process = await asyncio.create_subprocess_exec(
            str(temporal_binary()), *words, "--address", stack.temporal_address, stdout=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 0
        job_id = words[words.index("--workflow-id") + 1]
        result = await temporal.get_workflow_handle(job_id, result_type=GenerateResult).result()
        assert result.success and result.content

    async def test_the_python_of_the_page_on_conversations_runs(self, capsys: pytest.CaptureFixture[str]):
        await run_python(blocks((DOCS / "conversation.md").read_text(encoding="utf-8"), "python"))
        assert "['My invoice is wrong.', 'Which one did I mean?']" in capsys.readouterr().out

    async def test_a_misspelled_field_is_named(self, temporal: TemporalClient):
        given = {"workspace_id": "default", "user_id": "ann", "promt": {}}
        with pytest.raises(WorkflowFailureError) as failed:
            await temporal.execute_workflow(WORKFLOW, given, id="misspelled", task_queue="parley")
        assert "promt" in str(failed.value.cause)


async def run_commands(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the commands that the page shows. Those shown as refused are refused, and no other command fails."""
    commands = shown_commands(page)
    assert commands
    for words, shown in commands:
        code = await asyncio.to_thread(execute, words)
        said = capsys.readouterr()
        assert code == (1 if shown.startswith("refused (") else 0), (words, said.err)
        assert said.err.startswith("refused (") == shown.startswith("refused (")


async def run_python(snippets: Sequence[str]) -> None:
    """Run the page's code, one snippet after another, as cells of a notebook."""
    assert snippets
    names: dict[str, Any] = {}
    for snippet in snippets:
        code = compile(snippet, "docs", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)
        if running is not None:
            await running


@pytest.fixture
async def moved(temporal: TemporalClient, database: Database, settings: Settings) -> AsyncIterator[Client]:
    """A client whose workers have the policy of docs/migrating.md."""
    changed = settings.model_copy(update={"policy_file": POLICY})
    async with running_workers(temporal, database, changed):
        yield Backend(temporal, database, changed).client(f"moved-{database_name(settings)}")


def database_name(settings: Settings) -> str:
    """Tests have separate databases but share a Temporal server, so keys need separate workspaces."""
    assert settings.database_url is not None
    return settings.database_url.get_secret_value().rpartition("/")[2]


@pytest.fixture
def vendors(simulator: SimulatorAdmin, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the vendors' SDKs, which the old code uses, to the simulator."""
    values = {
        "OPENAI_BASE_URL": f"{simulator.url}/openai/v1",
        "OPENAI_API_KEY": "none",
        "ANTHROPIC_BASE_URL": f"{simulator.url}/anthropic",
        "ANTHROPIC_API_KEY": "none",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


class RedisStub(dict[str, bytes]):
    """The one command of Redis that the old code uses."""

    def setex(self, key: str, seconds: int, value: bytes) -> None:
        self[key] = value


async def confirmed(client: Client) -> float:
    return float((await client.costs()).confirmed_usd)


class TestMigratingPage:
    def test_its_code_is_that_of_the_samples(self):
        files = [path.read_text(encoding="utf-8") for path in sorted(POLICY.parent.iterdir()) if path.is_file()]
        shown = [*blocks(MIGRATING, "python"), *blocks(MIGRATING, "toml")]
        assert len(shown) == 11
        assert [block for block in shown if not any(block in file for file in files)] == []

    @pytest.mark.usefixtures("environment")
    async def test_its_commands_run(
        self,
        moved: Client,
        simulator: SimulatorAdmin,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        await chat_after.reply(moved, "ann", 17, "Where is my parcel?")
        await billed_file(simulator, tmp_path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PARLEY_POLICY_FILE", str(POLICY))
        await run_commands(MIGRATING, capsys)


@pytest.mark.usefixtures("vendors")
class TestMoving:
    """The code of docs/migrating.md, before and after."""

    @pytest.fixture
    def costs(self) -> sqlite3.Connection:
        opened = sqlite3.connect(":memory:", check_same_thread=False)
        opened.execute(chat_before.COSTS)
        return opened

    async def test_both_chats_record_the_same_cost(self, moved: Client, costs: sqlite3.Connection):
        text = "Where is my parcel?"
        old = await asyncio.to_thread(chat_before.reply, costs, moved.workspace_id, "ann", text)
        new = await chat_after.reply(moved, "ann", 17, text)
        assert old and new
        [(usd,)] = costs.execute("SELECT usd FROM ai_costs")
        assert round(usd, 12) == await confirmed(moved) > 0

    async def test_only_the_new_chat_records_the_cost_of_a_lost_reply(
        self, moved: Client, costs: sqlite3.Connection, simulator: SimulatorAdmin
    ):
        await simulator.fault("cut", provider="openai")
        await asyncio.to_thread(chat_before.reply, costs, moved.workspace_id, "ann", "Where is my parcel?")
        assert len(await simulator.billed()) == 2
        assert costs.execute("SELECT count(*) FROM ai_costs").fetchone() == (1,)
        await simulator.post("reset")
        await simulator.fault("cut", provider="openai")
        await chat_after.reply(moved, "ann", 17, "Where is my parcel?")
        spent = await moved.costs()
        assert len(await simulator.billed()) == 2
        assert spent.confirmed_usd > 0 and spent.uncertain_usd > 0
        assert await moved.audit() == []

    async def test_a_repeated_message_is_paid_once(self, moved: Client, simulator: SimulatorAdmin):
        first, again = [await chat_after.reply(moved, "ann", 17, "Where is my parcel?") for _ in range(2)]
        assert first == again
        assert len(await simulator.billed()) == 1

    async def test_only_the_old_cache_confuses_tones(self, moved: Client, simulator: SimulatorAdmin):
        cache, facts = RedisStub(), "oak table, made in a week"
        warm, stern = [await asyncio.to_thread(drafts_before.draft, cache, facts, tone) for tone in ("warm", "stern")]
        assert warm == stern
        await simulator.post("reset")
        for tone in ("warm", "stern", "warm"):
            assert await drafts_after.draft(moved, "ann", facts, tone)
        assert len(await simulator.billed()) == 2

    async def test_both_drafts_fall_back(self, moved: Client, simulator: SimulatorAdmin):
        await simulator.fault("overloaded", provider="anthropic", times=None)
        assert await asyncio.to_thread(drafts_before.draft, RedisStub(), "oak table", "warm")
        assert await drafts_after.draft(moved, "ann", "oak table", "warm")
        assert {request["provider"] for request in await simulator.billed()} == {"openai"}

    @pytest.mark.parametrize(("engine", "billed"), [("before", 16), ("after", 10)])
    async def test_only_the_new_bulk_run_resumes_without_paying_twice(
        self, engine: str, billed: int, moved: Client, simulator: SimulatorAdmin, tmp_path: Path
    ):
        label = old_label if engine == "before" else bulk_after.label
        source, target = tmp_path / "tickets.csv", tmp_path / "topics.csv"
        write_tickets(source, broken=6)
        with pytest.raises(ValueError, match="invalid literal"):
            await label(moved, source, target)
        write_tickets(source, broken=None)
        await label(moved, source, target)
        assert len(await simulator.billed()) == billed
        assert len(target.read_text().splitlines()) == 1 + 10

    async def test_the_vendors_list_shows_requests_outside_parley(
        self, moved: Client, costs: sqlite3.Connection, simulator: SimulatorAdmin, tmp_path: Path
    ):
        await chat_after.reply(moved, "ann", 17, "Where is my parcel?")
        assert await moved.audit(read_billed(await billed_file(simulator, tmp_path))) == []
        await asyncio.to_thread(chat_before.reply, costs, moved.workspace_id, "ann", "Where is my parcel?")
        [outside] = await moved.audit(read_billed(await billed_file(simulator, tmp_path)))
        assert outside.found == "unknown"

    async def test_the_shadow_spends_in_its_workspace_and_never_raises(self, moved: Client, simulator: SimulatorAdmin):
        await shadow(moved, "ann", 17, "Where is my parcel?", share=0)
        assert await simulator.requests() == []
        await shadow(moved, "ann", 17, "Where is my parcel?", share=1)
        assert await confirmed(moved) > 0
        await simulator.fault("quota", times=None)
        await shadow(moved, "ann", 18, "Where is my other parcel?", share=1)


async def billed_file(simulator: SimulatorAdmin, directory: Path) -> Path:
    path = directory / "billed.json"
    path.write_text(json.dumps(await simulator.requests()))
    return path


async def old_label(_: Client, source: Path, target: Path) -> None:
    await asyncio.to_thread(bulk_before.label, source, target)


def write_tickets(path: Path, *, broken: int | None) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "text", "minutes_open"])
        for number in range(10):
            rows.writerow([number, f"Parcel {number} is late", "n/a" if number == broken else number * 10])
