"""`parley config`, and the same through the client."""

import json
from pathlib import Path
from typing import Any

import pytest

from parley import Client
from parley.domain.errors import InvalidInput
from tests.cli.command import Run

KEY = "sk-acme-0123456789-very-secret"
COMPANY = {"name": "Acme Lifts", "industry": "elevators"}
PRODUCTS = """
[[items]]
name = "Paternoster"
price = "$9 [month]"

[[items]]
name = "Escalator"
"""


@pytest.fixture
def write(tmp_path: Path):
    def written(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


async def shown(parley: Run, user: str = "ann", workspace: str = "default") -> dict[str, Any]:
    ran = await parley("config", "show", user, "--workspace", workspace, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


async def test_a_set_section_is_shown_and_defaults_are_marked(parley: Run, write: Any):
    await parley("energy", "grant", "ann", "50", "--tier", "pro")
    for section, file in {
        "company": write("company.json", json.dumps(COMPANY)),
        "products": write("products.toml", PRODUCTS),
        "credentials": write("keys.toml", '[openai]\nenv = "ACME_OPENAI_API_KEY"'),
    }.items():
        ran = await parley("config", "set", section, "--file", file)
        assert (ran.code, section in ran.out) == (0, True), ran.err
    report = await shown(parley)
    configuration = report["configuration"]
    assert configuration["profile"] == {"tier": "pro", "energy": 150}
    assert configuration["company"] == {**COMPANY, "brand_voice": "clear and friendly", "description": ""}
    assert [product["name"] for product in configuration["products"]["items"]] == ["Paternoster", "Escalator"]
    assert configuration["credentials"]["openai"] == {"env": "ACME_OPENAI_API_KEY", "file": None}
    assert "company.brand_voice" in report["defaults"]
    assert not {"company.name", "profile.tier", "credentials.openai"} & set(report["defaults"])
    assert report["warnings"] == []
    lines = (await parley("config", "show", "ann")).out.splitlines()
    assert any("company.industry" in line and "elevators" in line and "default" not in line for line in lines)
    assert any("company.brand_voice" in line and line.rstrip(" │").endswith("default") for line in lines)
    assert any("credentials.openai" in line and "env ACME_OPENAI_API_KEY" in line for line in lines)


async def test_ai_settings_belong_to_one_user(parley: Run, write: Any):
    file = write("parley.settings.json", '{"tone": "dry"}')
    assert (await parley("config", "set", "ai_settings", "--file", file, "--user", "ann")).code == 0
    assert (await shown(parley))["configuration"]["ai_settings"]["tone"] == "dry"
    assert (await shown(parley, "bob"))["configuration"]["ai_settings"]["tone"] == "friendly"
    ran = await parley("config", "set", "ai_settings", "--file", file)
    assert (ran.code, ran.err) == (2, "parley: ai_settings: belongs to a user: name the user (--user)\n")
    ran = await parley("config", "set", "company", "--file", write("c.json", "{}"), "--user", "ann")
    assert (ran.code, ran.err) == (2, "parley: company: belongs to the workspace: leave out the user (--user)\n")


async def test_a_workspace_does_not_see_the_configuration_of_another(parley: Run, write: Any):
    await parley("config", "set", "company", "--file", write("c.json", json.dumps(COMPANY)), "--workspace", "acme")
    await parley("config", "set", "company", "--file", write("c.json", "{}"), "--workspace", "globex")
    assert (await shown(parley, workspace="acme"))["configuration"]["company"]["name"] == "Acme Lifts"
    assert (await shown(parley, workspace="globex"))["configuration"]["company"]["name"] == ""


async def test_an_empty_section_restores_the_defaults(parley: Run, write: Any):
    await parley("config", "set", "company", "--file", write("c.json", json.dumps(COMPANY)))
    await parley("config", "set", "company", "--file", write("c.json", "{}"))
    assert "company.name" in (await shown(parley))["defaults"]
    assert json.loads((await parley("config", "refresh", "ann", "--json")).out) == {"user_id": "ann", "sections": 0}


BAD: dict[str, tuple[str, str, str | bytes, str]] = {
    "fields": ("company", "c.json", '{"industry": 5, "colour": 1}', "c.json: company.industry: Input should be"),
    "another field": ("company", "c.json", '{"industry": 5, "colour": 1}', "company.colour: is not known"),
    "JSON": ("company", "c.json", "{", "c.json: is not JSON"),
    "a name twice": ("company", "c.json", '{"name": "a", "name": "b"}', "name is twice in one object"),
    "TOML": ("company", "c.toml", "name = ", "c.toml: is not TOML"),
    "text": ("company", "c.json", b'{"name": "\xff"}', "c.json: is not UTF-8"),
    "the format": ("company", "c.yaml", "name: a", "c.yaml: must end in .json or .toml"),
    "the size": ("company", "c.json", "[" * 100_000, "c.json: has more than the 64,000 bytes allowed"),
    "the depth": ("company", "c.json", "[" * 60_000, "c.json: is not JSON: nested too deeply"),
    "the section": ("colours", "c.json", "{}", "colours: is not a section"),
    "the profile": ("profile", "c.json", '{"tier": "pro"}', "profile: comes from the energy account"),
    "a key": ("credentials", "c.json", json.dumps({"openai": {"env": KEY}}), "c.json: credentials.openai.env: "),
    "a key in a file's name": (
        "credentials",
        "c.toml",
        f'[openai]\nfile = "{KEY}"',
        "credentials.openai.file: looks like a key",
    ),
}


@pytest.mark.parametrize(("section", "name", "content", "message"), BAD.values(), ids=BAD)
async def test_an_error_is_one_line_and_nothing_is_stored(
    parley: Run, write: Any, section: str, name: str, content: str | bytes, message: str
):
    ran = await parley("config", "set", section, "--file", write(name, content))
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err
    assert KEY not in ran.err
    assert json.loads((await parley("config", "refresh", "ann", "--json")).out)["sections"] == 0


async def test_a_missing_file_is_named(parley: Run, tmp_path: Path):
    ran = await parley("config", "set", "company", "--file", tmp_path / "none.json")
    assert (ran.code, "none.json: cannot be read: No such file" in ran.err) == (2, True)


async def test_unusable_stored_data_is_a_warning(parley: Run, client: Client, write: Any):
    await parley("config", "set", "company", "--file", write("c.json", json.dumps(COMPANY)))
    async with client.database.transaction() as tx:
        connection = await tx.connection()
        await connection.exec_driver_sql("UPDATE configuration SET payload = '{\"name\": 5}'")
    warning = "company.name: Input should be a valid string; the default is used"
    assert (await shown(parley))["warnings"] == [warning]
    ran = await parley("config", "show", "ann")
    assert (ran.code, ran.err) == (0, f"warning: {warning}\n")


async def test_refresh_prints_the_number_of_stored_sections(parley: Run, write: Any):
    await parley("config", "set", "company", "--file", write("c.json", json.dumps(COMPANY)))
    assert "stored: 1" in (await parley("config", "refresh", "ann")).out


@pytest.mark.parametrize("command", [("show",), ("refresh",)])
async def test_a_blank_user_is_refused(parley: Run, command: tuple[str, ...]):
    ran = await parley("config", *command, " ")
    assert (ran.code, ran.err) == (2, "parley: user: must not be blank\n")


async def test_a_service_sets_and_shows_through_the_client(client: Client):
    await client.configuration.set("ai_settings", {"language": "German"}, user_id="ann")
    report = await client.configuration.show("ann")
    assert report.configuration.ai_settings.language == "German"
    assert "ai_settings.tone" in report.defaults
    assert await client.configuration.refresh("ann") == 1
    with pytest.raises(InvalidInput, match="user: must not be blank"):
        await client.configuration.set("ai_settings", {}, user_id=" ")
