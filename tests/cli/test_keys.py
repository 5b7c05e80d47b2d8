"""`parley keys`: make, list and revoke the keys of the gateway."""

import json

import pytest

from tests.cli.command import Run


async def test_a_key_is_made_listed_and_revoked(parley: Run):
    made = await parley("keys", "create", "my service", "--scope", "read", "--expires", "90d", "-w", "acme")
    secret = made.out.strip()
    assert (made.code, len(secret), "not shown again" in made.err) == (0, 50, True)
    [key] = json.loads((await parley("keys", "list", "-w", "acme", "--json")).out)
    assert (key["name"], key["scopes"], key["revoked_at"]) == ("my service", ["read"], None)
    assert secret.startswith(key["prefix"])
    listed = await parley("keys", "list", "-w", "acme")
    assert secret not in listed.out
    assert "valid until" in listed.out
    other = await parley("keys", "revoke", key["key_id"])
    assert (other.code, key["key_id"] in other.err) == (2, True)
    assert (await parley("keys", "revoke", key["key_id"], "-w", "acme")).code == 0
    assert "revoked" in (await parley("keys", "list", "-w", "acme")).out


async def test_a_key_as_json_has_its_secret_once(parley: Run):
    made = json.loads((await parley("keys", "create", "app", "--json")).out)
    assert made["secret"].startswith(made["prefix"])
    assert made["scopes"] == ["generate", "jobs", "read"]
    assert made["secret"] not in (await parley("keys", "list", "--json")).out


@pytest.mark.parametrize("expires", ["soon", "90", "-1d", "nand", "99999999w"])
async def test_an_expiry_without_a_span_is_refused(expires: str, parley: Run):
    ran = await parley("keys", "create", "app", f"--expires={expires}")
    assert (ran.code, "expires" in ran.err) == (2, True)
    assert (await parley("keys", "list")).out.startswith("no keys")
