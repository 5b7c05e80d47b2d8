"""What is sent, and on which terms: the request, the policy and the configuration taken together."""

from collections.abc import Sequence

from parley.domain.configuration import Configuration, variables
from parley.domain.generate.caching import cache_key
from parley.domain.generate.contract import GenerateInput, Prompt, Serving, chat_request
from parley.domain.generate.decision import is_sampled
from parley.domain.generate.experiments import arm
from parley.domain.generate.parsing import check_schema
from parley.domain.generate.policy import Policy
from parley.domain.generate.prompts import render, template
from parley.domain.requests import Message

# A byte-pair token of English is about four bytes.
BYTES_PER_TOKEN = 4


def with_preferences(asked: GenerateInput, configuration: Configuration) -> GenerateInput:
    """The request with the user's own provider and model, where it names none."""
    prefers = configuration.ai_settings
    if asked.provider or asked.model or not (prefers.provider or prefers.model):
        return asked
    return asked.model_copy(update={"provider": prefers.provider, "model": prefers.model})


def rendered(
    asked: GenerateInput,
    given: Prompt,
    policy: Policy,
    configuration: Configuration,
    *,
    request_id: str,
    warnings: Sequence[str] = (),
) -> tuple[Prompt, Serving]:
    """The prompt with its template before it, and the terms that it is served on.

    Raises:
        InvalidInput: there is no such template or experiment, or the response schema is none.
    """
    if given.response_schema is not None:
        check_schema(given.response_schema)
    experiment, chosen = _template(asked, policy, configuration)
    messages = given.messages
    if chosen:
        system = render(template(chosen), variables(configuration))
        messages = (Message(role="system", content=system), *messages)
    prompt, action = given.model_copy(update={"messages": messages}), policy.of_action(asked.action)
    return prompt, Serving(
        energy=action.energy,
        max_cost_usd=action.max_cost_usd,
        cache=asked.cache or action.cache,
        cache_seconds=action.cache_seconds,
        cache_key=cache_key(asked.workspace_id, chat_request(asked, prompt)),
        on_rate_limit=asked.on_rate_limit or action.on_rate_limit,
        template=template(chosen).id if chosen else "",
        experiment=experiment,
        arm=chosen if experiment else "",
        warnings=tuple(warnings),
        score_quality=is_sampled(action.quality_sample, request_id),
    )


def is_long(prompt: Prompt, above_tokens: int | None) -> bool:
    """Whether the action's policy wants a prompt of that length condensed before it is sent."""
    said = sum(len(message.content.encode()) for message in prompt.messages)
    return above_tokens is not None and said > above_tokens * BYTES_PER_TOKEN


def _template(asked: GenerateInput, policy: Policy, configuration: Configuration) -> tuple[str, str]:
    """The experiment, if any, and the template: the request's own before an experiment's arm before defaults."""
    if asked.template:
        return "", asked.template
    of_action = [name for name, one in policy.experiment.items() if one.action == asked.action]
    name = asked.experiment or next(iter(of_action), "")
    if name:
        return name, arm(name, policy.experiment_named(name), asked.user_id)
    return "", policy.of_action(asked.action).template or configuration.ai_settings.template or ""
