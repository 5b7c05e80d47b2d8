"""`client.configuration`: what a workspace sets for itself and for its users."""

from __future__ import annotations

from parley.client.backend import Backend
from parley.domain.configuration import USER_SECTIONS, Configuration, fields, parse_section, read_configuration
from parley.domain.errors import InvalidInput
from parley.domain.model import Model
from parley.storage import configuration as storage


class ConfigurationReport(Model):
    """A user's configuration as the workers see it.

    `defaults`: the fields that are not set, for example `company.industry`. `warnings`: stored data that is not usable.
    """

    user_id: str
    configuration: Configuration
    defaults: tuple[str, ...]
    warnings: tuple[str, ...]


class WorkspaceConfiguration:
    """The configuration of one workspace. Setting `credentials` decides which key is used: restrict it to operators."""

    def __init__(self, backend: Backend, workspace_id: str) -> None:
        self._database, self._workspace_id = backend.database, workspace_id

    async def show(self, user_id: str) -> ConfigurationReport:
        """All sections as they are now, for a user. An unknown user has the defaults.

        Raises:
            InvalidInput: `user_id` is blank.
        """
        _check_user(user_id)
        async with self._database.transaction() as tx:
            stored = await storage.load(tx, self._workspace_id, user_id)
        configuration, warnings = read_configuration(stored.sections)
        return ConfigurationReport(
            user_id=user_id,
            configuration=configuration,
            defaults=tuple(name for name, _, is_set in fields(configuration) if not is_set),
            warnings=warnings,
        )

    async def set(self, section: str, data: object, *, user_id: str | None = None, where: str = "") -> None:
        """Replace a section as a whole. An empty section restores its defaults.

        Args:
            section: its name, for example `company`.
            data: the fields by name, as in docs/configuration.md.
            user_id: the user, for `ai_settings`; default None, for the sections of the workspace.
            where: names the data in an error message, for example its file; default: nothing.

        Raises:
            InvalidInput: a field is not valid; the error names every such field, and nothing is stored.
        """
        given = parse_section(section, data, where=where)
        owner = _owner(section, user_id)
        async with self._database.transaction() as tx:
            await storage.replace(tx, self._workspace_id, section, given, owner=owner)

    async def refresh(self, user_id: str) -> int:
        """Make every worker load a user's configuration again for its next request, after a change in the database.

        Returns:
            How many sections are stored for the user.

        Raises:
            InvalidInput: `user_id` is blank.
        """
        _check_user(user_id)
        async with self._database.transaction() as tx:
            return await storage.refresh(tx, self._workspace_id, user_id)


def _owner(section: str, user_id: str | None) -> str:
    if section not in USER_SECTIONS:
        if user_id is not None:
            raise InvalidInput("belongs to the workspace: leave out the user (--user)", where=section)
        return storage.WORKSPACE
    if user_id is None:
        raise InvalidInput("belongs to a user: name the user (--user)", where=section)
    _check_user(user_id)
    return user_id


def _check_user(user_id: str) -> None:
    if not user_id.strip():
        raise InvalidInput("must not be blank", where="user")
