"""The two modes of `Generate`: a workflow, or inline in the caller's process. Scenario tests run in both."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.inline import InlineGenerate
from parley import Backend, Client
from parley.client.generate import Messages, generate_input
from parley.client.streaming import GenerateStream, OnDisconnect
from parley.domain.generate.contract import GenerateResult, workflow_id

MODES = ("durable", "inline")
# The tests of a module run in both modes ...
BOTH_MODES = pytest.mark.parametrize("mode", MODES, indirect=True)


def durable_only(reason: str) -> pytest.MarkDecorator:
    """... except for a test that is about workflows themselves."""
    return pytest.mark.durable_only(reason)


class InlineClient(Client):
    """A client whose generations run in this process, as in a gateway's."""

    def __init__(self, backend: Backend, workspace_id: str, inline: InlineGenerate) -> None:
        super().__init__(backend, workspace_id)
        self.inline = inline

    async def generate(
        self, messages: Messages, *, user_id: str, action: str = "ai_message", key: str | None = None, **options: Any
    ) -> GenerateResult:
        request = generate_input(self.workspace_id, messages, user_id=user_id, action=action, **options)
        return await self.inline.run(request, key)

    def generate_stream(
        self,
        messages: Messages,
        *,
        user_id: str,
        action: str = "ai_message",
        key: str | None = None,
        on_disconnect: OnDisconnect = "finish",
        **options: Any,
    ) -> GenerateStream:
        request = generate_input(self.workspace_id, messages, user_id=user_id, action=action, **options)
        return self.inline.stream(request, key, on_disconnect=on_disconnect)


@asynccontextmanager
async def inline_client(backend: Backend, workspace_id: str) -> AsyncIterator[InlineClient]:
    """A client of a process of its own: nothing is shared with other clients but the database."""
    inline = InlineGenerate(backend.database, backend.settings, backend.temporal)
    yield InlineClient(backend, workspace_id, inline)
    await inline.close()


def in_workspace(client: Client, workspace_id: str) -> Client:
    """A client of another workspace, in the same mode and the same process."""
    backend = Backend(client.temporal, client.database, client.settings)
    if isinstance(client, InlineClient):
        return InlineClient(backend, workspace_id, client.inline)
    return backend.client(workspace_id)


async def cancel(client: Client, key: str) -> None:
    """Cancel the generation that runs under a key."""
    if isinstance(client, InlineClient):
        assert client.inline.cancel(client.workspace_id, key)
    else:
        await client.temporal.get_workflow_handle(workflow_id(client.workspace_id, key)).cancel()
