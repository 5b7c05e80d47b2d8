"""Which parameters and sizes each vendor's models accept."""

import json

import pytest

from parley.domain.capabilities import SCHEMA_INSTRUCTION, capabilities, dropped_parameters, window, without_dropped
from parley.domain.json_schema import strict_object
from parley.domain.requests import ChatRequest, Message, Provider

ANTHROPIC, OPENAI, LOCAL = Provider.ANTHROPIC, Provider.OPENAI, Provider.LOCAL


@pytest.mark.parametrize(
    ("provider", "model", "accepted"),
    [
        (OPENAI, "gpt-4o-mini", True),
        (OPENAI, "ft:gpt-4o-mini:acme::7", True),
        (OPENAI, "o3-mini", False),
        (OPENAI, "gpt-5-mini", False),
        (OPENAI, "ft:o4-mini-2025-04-16:acme::7", False),
        (LOCAL, "llama-3.1-8b-instruct", True),
        (LOCAL, "o1-distilled", True),
        (ANTHROPIC, "claude-haiku-4-5", False),
        (ANTHROPIC, "a-model-of-tomorrow", False),
    ],
)
def test_temperature_is_accepted_by_some_models(provider: Provider, model: str, accepted: bool):
    assert capabilities(provider, model).temperature is accepted


@pytest.mark.parametrize(
    ("provider", "model", "accepted"),
    [
        (OPENAI, "gpt-4", False),
        (OPENAI, "gpt-4-turbo", False),
        (OPENAI, "gpt-4o", True),
        (OPENAI, "gpt-4o-2024-05-13", False),
        (OPENAI, "o1", True),
        (OPENAI, "o1-preview", False),
        (ANTHROPIC, "claude-3-5-sonnet-20241022", False),
        (ANTHROPIC, "claude-sonnet-4-20250514", False),
        (ANTHROPIC, "claude-sonnet-4-5", True),
        (LOCAL, "gpt-4", True),
    ],
)
def test_a_response_schema_is_accepted_by_newer_models(provider: Provider, model: str, accepted: bool):
    assert capabilities(provider, model).response_schema is accepted


def test_a_fine_tuned_model_has_the_sizes_of_its_base():
    assert window("ft:gpt-4o-mini:acme::7") == window("gpt-4o-mini")


def test_a_schema_that_is_not_accepted_becomes_a_system_message():
    schema = strict_object({"mood": {"type": "string"}})
    user, system = Message(role="user", content="hello"), Message(role="system", content="Be brief.")
    request = ChatRequest(messages=(user, system), max_tokens=9, temperature=0.5, response_schema=schema)
    assert dropped_parameters(ANTHROPIC, "claude-3-haiku", request) == ("temperature", "response_schema")
    sent = without_dropped(ANTHROPIC, "claude-3-haiku", request)
    instruction = Message(role="system", content=f"{SCHEMA_INSTRUCTION}\n{json.dumps(schema)}")
    assert sent.messages == (system, instruction, user)
    assert (sent.temperature, sent.response_schema) == (None, None)
    assert without_dropped(OPENAI, "gpt-4o", request) == request
