"""The service's workflow: it asks Parley for an answer and signs it. It runs in Temporal's default sandbox."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from parley import GenerateInput, GenerateResult, Message, Prompt

    import activities
    import domain
    import settings


@workflow.defn
class SignedAnswer:
    @workflow.run
    async def run(self, user_id: str) -> GenerateResult:
        answer = await workflow.execute_child_workflow(
            "Generate",
            GenerateInput(
                workspace_id=settings.WORKSPACE,
                user_id=user_id,
                prompt=Prompt(messages=(Message(role="user", content=domain.QUESTION),)),
            ),
            id=f"{workflow.info().workflow_id}/answer",
            task_queue="parley",
            result_type=GenerateResult,
        )
        signed = await workflow.execute_activity(
            activities.sign, answer.content or "", start_to_close_timeout=timedelta(seconds=10)
        )
        return answer.model_copy(update={"content": signed})
