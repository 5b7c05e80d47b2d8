"""Changes of what is stored of a conversation's user: the free step of the updates that wait for their turn.

`client.configuration` and `client.memory` make the same changes at once, by the same functions.
"""

from typing import assert_never
from uuid import uuid5

from temporalio import activity

from activities.boundary import boundary
from parley.domain.configuration import parse_section
from parley.domain.conversation.contract import (
    PREFERENCES,
    Changed,
    ChangeStep,
    CorrectMemory,
    ForgetMemory,
    SetPreferences,
)
from parley.storage import configuration, memories
from parley.storage.database import Database


class ConversationChanges:
    """A local activity: it runs in the workflow's own task, and only writes to the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="conversation.change")
    @boundary
    async def change(self, step: ChangeStep) -> Changed:
        """Make a change. Repeated, it changes nothing more; a memory that is forgotten is not found again."""
        owner = (step.workspace_id, step.user_id)
        async with self._database.transaction() as tx:
            match step.change:
                case SetPreferences(preferences=preferences):
                    given = parse_section(PREFERENCES, preferences)
                    await configuration.replace(tx, step.workspace_id, PREFERENCES, given, owner=step.user_id)
                    return Changed()
                case CorrectMemory(memory_id=memory_id, value=value):
                    new_id = uuid5(memory_id, step.update_id)
                    return Changed(memory=await memories.correct(tx, *owner, memory_id, value, new_id))
                case ForgetMemory(memory_id=memory_id):
                    return Changed(forgotten=await memories.forget_asked(tx, *owner, memory_id))
                case _:
                    assert_never(step.change)
