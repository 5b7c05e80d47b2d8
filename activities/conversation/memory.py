"""The memories of a user: recall for a prompt, and the paid step that extracts them from turns."""

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.boundary import boundary
from parley.domain.conversation.memory import Memory, RememberOutcome, RememberStep


class ConversationMemory:
    """Remembers nothing yet."""

    async def recall(
        self,
        tx: AsyncSession,  # noqa: ARG002
        workspace_id: str,  # noqa: ARG002
        user_id: str,  # noqa: ARG002
        text: str,  # noqa: ARG002
        limit: int = 5,  # noqa: ARG002
    ) -> tuple[Memory, ...]:
        """The memories that are relevant to a text, the most relevant first."""
        return ()

    @activity.defn(name="conversation.remember")
    @boundary
    async def remember(self, step: RememberStep) -> RememberOutcome:  # noqa: ARG002
        """Extract facts from turns, and store them."""
        return RememberOutcome()
