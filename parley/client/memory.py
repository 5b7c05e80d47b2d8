"""`client.memory`: what is remembered of a workspace's users. Users may see it, correct it and have it forgotten."""

from __future__ import annotations

from uuid import UUID, uuid4

from parley.client.backend import Backend
from parley.domain.conversation.memory import Memory
from parley.storage import memories


class UserMemory:
    """The memories of a workspace's users. A memory belongs to a user, whichever conversation it comes from."""

    def __init__(self, backend: Backend, workspace_id: str) -> None:
        self._database, self._workspace_id = backend.database, workspace_id

    async def show(self, user_id: str, *, with_ended: bool = False) -> list[Memory]:
        """What is remembered of a user, the newest first; at most 1,000 memories.

        Args:
            user_id: the user.
            with_ended: also what was superseded or ended, with the time; default: what is valid.
        """
        async with self._database.transaction() as tx:
            return list(await memories.of_user(tx, self._workspace_id, user_id, with_ended=with_ended))

    async def correct(self, user_id: str, memory_id: UUID, value: str) -> Memory:
        """Replace the value of a memory. The old value ends now, and is not recalled any more.

        Args:
            user_id: the user whose memory it is.
            memory_id: from `show`.
            value: the right value, 1 to 200 characters on one line.

        Returns:
            The new memory.

        Raises:
            InvalidInput: the value is blank, too long, or not text that can be stored.
            MemoryChanged: the memory is not valid any more; the error names the value that replaced it.
            NotFound: the user has no such memory.
        """
        async with self._database.transaction() as tx:
            return await memories.correct(tx, self._workspace_id, user_id, memory_id, value, uuid4())

    async def forget(self, user_id: str, memory_id: UUID | None = None) -> int:
        """Remove the content of one memory, or of all of a user, and of the replies that they come from.

        It does not come back when an extraction is repeated. What it cost stays in the ledger. What the user said
        stays in the conversation's turns.

        Args:
            user_id: the user.
            memory_id: from `show`; default: all of the user's, also ended ones.

        Returns:
            How many memories were forgotten.

        Raises:
            NotFound: the user has no memory `memory_id`.
        """
        async with self._database.transaction() as tx:
            return await memories.forget_asked(tx, self._workspace_id, user_id, memory_id)
