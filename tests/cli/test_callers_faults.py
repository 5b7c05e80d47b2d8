"""A mistake of the caller is one line and exit code 2, before anything starts."""

import asyncio
import os
import subprocess
import sys
from decimal import Decimal

import pytest

from parley import Client, InvalidInput, Period
from parley.cli import run
from tests.cli.command import Run
from tests.parts import SAMPLES

SAMPLE = SAMPLES / "cold-call-logistics.json"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("energy", "grant", "ann", "1000000000000"), "amount: must be at most 2,147,483,"),
        (("energy", "grant", "ann", "1", "--tier", "platinum"), "--tier: is not in the policy"),
        (("budget", "set", "day", "1e400"), "cap: must be an amount in USD"),
        (("budget", "set", "day", "1000000000000"), "cap: must be an amount in USD"),
        (("budget", "set", "day", "NaN"), "budget: must be an amount in USD of at least 0"),
        (("budget", "set", "day", "0.0000001"), "budget: must have six decimals at most"),
        (("budget", "set", "day", "-5"), "a negative number is not accepted here"),
        (("energy", "grant", "ann", "1", "--key", " "), "--key: must not be blank"),
        (("generate", "Hi", "--user", "ann", "--key", ""), "--key: must not be blank"),
        (("chat", "--user", "ann", "--key", ""), "--key: must not be blank"),
        (
            ("generate", "Hi", "--user", "ann", "--provider", "whisper"),
            "parley: Invalid value for '--provider': 'whisper'",
        ),
        (("events", "--retry", "99999999999999999999"), "--retry"),
        (("report", "--since", "-3d"), "--since: is in the future"),
        (("report", "--since", "2100-01-01"), "--since: is in the future"),
        (("costs", "--since", "-1h"), "--since: is in the future"),
        (("report", "--since", "nand"), "--since: must be a date"),
        (("generate", "hi", "--user", "ann", "--action", "ai_mesage"), "ai_message"),
        (("generate", "hi", "--user", "ann", "--model", "gpt-17-imaginary"), "gpt-17-imaginary"),
        (("generate", "hi", "--user", "ann", "--template", "concize"), "there is no prompt 'concize'"),
        (("generate", "hi", "--user", "ann", "--experiment", "tone"), "--experiment: is not in the policy"),
        (("analyze", str(SAMPLE), "--html", "/nowhere/report.html"), "/nowhere/report.html: cannot be written"),
        (("generate", b"caf\xe9", "--user", "ann"), "messages.0.content: contains"),
        (("generate", "hi", "--user", "ann", "--system", b"caf\xe9"), "messages.0.content: contains"),
    ],
    ids=lambda value: " ".join(map(str, value[:5])) if isinstance(value, tuple) else "",
)
async def test_a_mistake_is_refused(
    arguments: tuple[str | bytes, ...], expected: str, parley: Run, client: Client
) -> None:
    ran = await parley(*(os.fsdecode(argument) for argument in arguments), "--workspace", client.workspace_id)
    assert ran.code == 2, ran.err
    assert expected in ran.err
    assert ran.err.count("\n") == 1
    assert [found async for found in client.temporal.list_workflows(f"ParleyWorkspace = '{client.workspace_id}'")] == []


async def test_grants_together_fit_the_account(client: Client) -> None:
    await client.grant_energy("ann", 2_000_000_000, key="a")
    with pytest.raises(InvalidInput, match="at most 147,48"):
        await client.grant_energy("ann", 2_000_000_000, key="b")


async def test_a_cap_that_is_not_an_amount_is_refused(client: Client) -> None:
    for amount in ("NaN", "-1", "Infinity", "1e12"):
        with pytest.raises(InvalidInput, match="amount in USD"):
            await client.set_cap(Period.DAY, Decimal(amount))


async def test_bytes_on_stdin_that_are_not_utf8_are_refused(parley: Run) -> None:
    """`parley` prepares the environment; a process has a stdin of bytes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "parley", "generate", "-", "--user", "ann"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate(b"caf\xe9")
    assert (process.returncode, out) == (2, b"")
    assert err.startswith(b"parley: generate: messages.0.content: contains")


async def test_a_missing_extra_is_named(parley: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    for command in ("up", "demo", "simulator"):
        ran = await parley(command)
        assert ran.code == 2
        assert ran.err == "parley: the embedded stack: is not installed: pip install 'parley[embedded]'\n"


async def test_a_bug_is_one_line_that_says_how_to_see_more(parley: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(run, "find_spec", fail)
    ran = await parley("up")
    assert ran.code == 1
    assert ran.err == "parley: unexpected ZeroDivisionError: division by zero (--debug shows the traceback)\n"
    assert "Traceback" in (await parley("--debug", "up")).err


def test_output_that_nothing_reads_ends_without_an_error() -> None:
    command = f"{sys.executable} -m parley prompts --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "closed", "code"),
    [("generate - --user ann", "<&-", 2), ("prompts", ">&-", 0), ("prompts --json", "2>&-", 0), ("nothing", "2>&-", 2)],
)
async def test_a_closed_stream_is_empty(arguments: str, closed: str, code: int, parley: Run) -> None:
    """`parley` prepares the environment."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"exec {sys.executable} -m parley {arguments} {closed}"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == code, err
    assert b"Traceback" not in err
    assert b"unexpected" not in err
