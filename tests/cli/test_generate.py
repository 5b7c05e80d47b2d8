"""`parley generate`, `budget` and `policy`."""

import asyncio
import io
import json
import sys
from pathlib import Path

import pytest

from parley import Client, ParleyError
from tests.cli.command import Run
from tests.parts import SAMPLES, SimulatorAdmin

pytestmark = pytest.mark.usefixtures("worker")
ASK = ("generate", "What does the export contain?", "--user", "ann")


async def test_the_answer_is_alone_on_stdout_and_its_origin_on_stderr(parley: Run) -> None:
    ran = await parley(*ASK)
    assert ran.code == 0, ran.err
    assert ran.out.count("\n") == 1 and "simulator" in ran.out
    for said in ("openai gpt-4o-mini (simulated)", "first choice of the free tier", "99 energy left", "request "):
        assert said in ran.err


async def test_json_has_the_whole_result(parley: Run) -> None:
    result = json.loads((await parley(*ASK, "--json")).out)
    assert result["success"] is True
    assert result["meta"]["cost_usd"] != "0"


async def test_a_streamed_answer_is_printed_as_one_that_is_not(parley: Run) -> None:
    plain = await parley(*ASK, "--cache", "off")
    ran = await parley(*ASK, "--cache", "off", "--stream")
    assert (ran.code, ran.out) == (0, plain.out)
    assert "openai gpt-4o-mini (simulated)" in ran.err


async def test_a_streamed_answer_as_json_has_a_delta_in_each_line_and_the_result_last(parley: Run) -> None:
    *deltas, result = map(json.loads, (await parley(*ASK, "--stream", "--json")).out.splitlines())
    assert deltas and {delta["kind"] for delta in deltas} == {"text"}
    assert "".join(delta["text"] for delta in deltas) == result["content"]


async def test_a_refused_stream_exits_1_with_its_reason(parley: Run) -> None:
    await parley("budget", "set", "day", "0")
    ran = await parley(*ASK, "--stream")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("refused (budget_exhausted): ")


async def test_a_cached_answer_shows_what_it_saved(parley: Run) -> None:
    await parley(*ASK)
    assert "saved $" in (await parley(*ASK)).err


async def test_a_schema_file_and_a_system_prompt_are_used(parley: Run, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(
        json.dumps(
            {
                "type": "object",
                "properties": {"topic": {"type": "string"}},
                "required": ["topic"],
                "additionalProperties": False,
            }
        )
    )
    ran = await parley(*ASK, "--system", "Be brief.", "--schema", schema, "--json")
    assert set(json.loads(ran.out)["parsed"]) == {"topic"}


async def test_a_refusal_exits_1_with_its_reason(parley: Run) -> None:
    assert (await parley("budget", "set", "day", "0")).code == 0
    ran = await parley(*ASK)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("refused (budget_exhausted): ")


async def test_no_answering_provider_exits_1_with_the_attempts(parley: Run, simulator: SimulatorAdmin) -> None:
    await simulator.fault("quota", times=None)
    ran = await parley(*ASK)
    assert ran.code == 1
    assert ran.err.startswith("parley: ") and "openai: " in ran.err and ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--schema", "missing.json"), "missing.json"),
        (("--max-tokens", "200000"), "max_tokens"),
        (("--template", "poetic"), "there is no prompt 'poetic'"),
        (("--experiment", "none"), "--experiment: is not in the policy"),
    ],
)
async def test_bad_input_is_one_line_and_exit_code_2(parley: Run, arguments: tuple[str, str], said: str) -> None:
    ran = await parley(*ASK, *arguments)
    assert ran.code == 2, ran.err
    assert said in ran.err and ran.err.count("\n") == 1


async def test_only_chat_providers_are_offered(parley: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "elevenlabs" not in (await parley("generate", "--help")).out
    ran = await parley(*ASK, "--provider", "elevenlabs")
    assert (ran.code, "'anthropic', 'openai', 'local'" in ran.err) == (2, True)
    assert (await parley(*ASK, "--provider", "anthropic", "--json")).code == 0


async def test_one_key_is_one_request(parley: Run, simulator: SimulatorAdmin) -> None:
    first = await parley(*ASK, "--key", "order-7")
    again = await parley(*ASK, "--key", "order-7")
    assert first.out == again.out
    assert len(await simulator.billed()) == 1
    other = await parley("generate", "Something else", "--user", "ann", "--key", "order-7")
    assert other.code == 2 and "already used" in other.err


async def test_caps_are_set_shown_and_removed(parley: Run) -> None:
    assert "no cap" in (await parley("budget", "show")).out
    await parley("budget", "set", "week", "$20")
    await parley("budget", "set", "day", "5.50")
    await parley(*ASK)
    shown = (await parley("budget", "show")).out.splitlines()
    assert [line.split(":")[0] for line in shown] == ["day", "week"]
    assert "of $5.5" in shown[0] and "confirmed" in shown[0]
    day, _ = json.loads((await parley("budget", "show", "--json")).out)
    assert day["period"] == "day" and float(day["confirmed_usd"]) > 0
    await parley("budget", "set", "day", "none")
    assert "day" not in (await parley("budget", "show")).out


@pytest.mark.parametrize("amount", ["-1", "lots", "nan", "inf"])
async def test_an_invalid_amount_is_refused(parley: Run, amount: str) -> None:
    ran = await parley("budget", "set", "day", "--", amount)
    assert ran.code == 2 and amount in ran.err


async def test_the_policy_is_checked_and_shown(parley: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "claude-sonnet-4-6: pro, business" in (await parley("policy")).out
    broken = tmp_path / "policy.toml"
    broken.write_text('[[route]]\nprovider = "acme"')
    monkeypatch.setenv("PARLEY_POLICY_FILE", str(broken))
    ran = await parley("policy")
    assert ran.code == 2 and "route.0.provider" in ran.err


async def test_a_users_tier_decides_the_model(parley: Run, client: Client) -> None:
    await parley("energy", "grant", "ann", "5", "--tier", "pro")
    assert "claude-sonnet-4-6" in (await parley(*ASK)).err


async def test_a_generation_has_no_progress_or_results(parley: Run, client: Client) -> None:
    await parley(*ASK, "--key", "order-7")
    for command in ("progress", "results"):
        ran = await parley(command, "generate/default/order-7")
        assert (ran.code, "comes back under its key" in ran.err) == (2, True)


async def test_bytes_that_are_not_utf8_are_refused_with_their_place(
    parley: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for said, place in ((b"caf\xe9", 1), (b"a\0b", 1)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(said), encoding="utf-8"))
        ran = await parley("generate", "-", "--user", "ann", "--system", "Be brief.")
        assert (ran.code, ran.out) == (2, "")
        assert f"messages.{place}.content: contains" in ran.err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("What is in a café?".encode()), encoding="ascii"))
    assert (await parley("generate", "-", "--user", "ann")).code == 0


async def test_a_misspelled_name_starts_nothing(parley: Run, client: Client) -> None:
    """A typing error must not leave a failed workflow behind."""
    workspace = ("--workspace", client.workspace_id)
    sample, chats = SAMPLES / "cold-call-logistics.json", SAMPLES / "chats" / "support.jsonl"
    for command in (
        *((*ASK, option, "nope") for option in ("--model", "--template", "--action", "--experiment", "--tier")),
        (*ASK, "--template", "concise@99"),
        (*ASK, "--provider", "nope"),
        ("analyze", sample, "--model", "nope"),
        ("auto-analyze", chats, "--model", "nope"),
        ("energy", "grant", "ann", "5", "--tier", "nope"),
    ):
        ran = await parley(*command, *workspace)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), command
        assert "nope" in ran.err or "99" in ran.err or "--tier" in ran.err
    for misspelled in ({"model": "nope"}, {"template": "nope"}, {"provider": "nope"}):
        with pytest.raises(ParleyError, match=r"nope|provider: Input should be"):
            await client.generate("hello", user_id="ann", **misspelled)
    await client.generate("hello", user_id="ann")
    mine = f"ParleyWorkspace = '{client.workspace_id}'"
    while not (found := [one async for one in client.temporal.list_workflows(mine)]):
        await asyncio.sleep(0.05)
    assert [one.workflow_type for one in found] == ["Generate"]
    assert [job.status for job in await client.jobs()] == ["completed"]
