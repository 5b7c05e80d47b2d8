"""`client.configuration`: what a workspace has told Parley about itself and its users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parley.domain.configuration import USER_SECTIONS, Configuration, fields, parse_section, read_configuration
from parley.domain.errors import InvalidInput
from parley.domain.model import Model
from parley.storage import configuration as storage

if TYPE_CHECKING:
    from parley.client.client import Client


class ConfigurationReport(Model):
    """A user's configuration as the workers see it. `defaults`: the fields that nobody has set, as `company.industry`;
    `warnings`: what is stored and could not be used."""

    user_id: str
    configuration: Configuration
    defaults: tuple[str, ...]
    warnings: tuple[str, ...]


class WorkspaceConfiguration:
    """The configuration of one workspace. Who may set `credentials` decides which key is used: let operators do it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def show(self, user_id: str) -> ConfigurationReport:
        """All sections as they are now, for a user. One who was never seen has the defaults."""
        _check_user(user_id)
        async with self._client.database.transaction() as tx:
            stored = await storage.load(tx, self._client.workspace_id, user_id)
        configuration, warnings = read_configuration(stored.sections)
        return ConfigurationReport(
            user_id=user_id,
            configuration=configuration,
            defaults=tuple(name for name, _, is_set in fields(configuration) if not is_set),
            warnings=warnings,
        )

    async def set(self, section: str, data: object, *, user_id: str | None = None, where: str = "") -> None:
        """Put a section in place of what was there: an empty one goes back to the defaults.

        Args:
            data: the fields by name, as in docs/configuration.md.
            user_id: whose it is, for `ai_settings`; the others are the workspace's own.
            where: what to call the data in an error, such as its file.

        Raises:
            InvalidInput: naming every field that is wrong; nothing is stored.
        """
        given = parse_section(section, data, where=where)
        owner = _owner(section, user_id)
        workspace_id = self._client.workspace_id
        async with self._client.database.transaction() as tx:
            if given:
                await storage.save(tx, workspace_id, section, given, owner=owner)
            else:
                await storage.remove(tx, workspace_id, section, owner=owner)

    async def refresh(self, user_id: str) -> int:
        """Have every worker load a user's configuration anew with its next call, after a change that was not made here.

        Returns the number of sections that are stored for the user.
        """
        _check_user(user_id)
        async with self._client.database.transaction() as tx:
            return await storage.refresh(tx, self._client.workspace_id, user_id)


def _owner(section: str, user_id: str | None) -> str:
    if section not in USER_SECTIONS:
        if user_id is not None:
            raise InvalidInput("is the workspace's own, not a user's", where=section)
        return storage.WORKSPACE
    if user_id is None:
        raise InvalidInput("belongs to a user: name one (--user)", where=section)
    _check_user(user_id)
    return user_id


def _check_user(user_id: str) -> None:
    if not user_id.strip():
        raise InvalidInput("is blank", where="user")
