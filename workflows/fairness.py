"""Workspaces share every task queue fairly: a worker interceptor sets the workspace id as fairness key.

The server dispatches the backlog of a queue one task per key at a time, in each priority level. A large batch of one
workspace therefore delays another workspace's task by a few tasks, not by the whole backlog. This needs
`matching.enableFairness` and one partition per queue (deploy/temporal/dynamic-config.yaml).
"""

from dataclasses import replace
from typing import Any

from temporalio import workflow
from temporalio.common import Priority
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    StartActivityInput,
    StartChildWorkflowInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

with workflow.unsafe.imports_passed_through():
    from parley.domain.queues import fairness_key


class FairnessInterceptor(Interceptor):
    """Sets the fairness key on every activity and child workflow that a workflow starts.

    The workspace id is the `workspace_id` of the workflow's input. A workflow whose input has none passes on the key
    that it was started with itself. Housekeeping, which belongs to no workspace, has no key.
    """

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:  # noqa: ARG002
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        self._outbound = _Outbound(outbound)
        super().init(self._outbound)

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        workspace_id = getattr(input.args[0], "workspace_id", None) if input.args else None
        self._outbound.key = fairness_key(workspace_id) if workspace_id else workflow.info().priority.fairness_key
        return await super().execute_workflow(input)


class _Outbound(WorkflowOutboundInterceptor):
    key: str | None = None

    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        input.priority = self._with_key(input.priority)
        return super().start_activity(input)

    async def start_child_workflow(self, input: StartChildWorkflowInput) -> workflow.ChildWorkflowHandle[Any, Any]:
        input.priority = self._with_key(input.priority)
        return await super().start_child_workflow(input)

    def _with_key(self, priority: Priority) -> Priority:
        """The priority with the fairness key; its level stays."""
        return replace(priority, fairness_key=self.key) if self.key else priority
