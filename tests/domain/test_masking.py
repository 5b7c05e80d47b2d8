"""Personal data is replaced before a provider sees it, and nothing else is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.domain.masking import EVERY_KIND, Personal, mask, masked
from parley.domain.requests import (
    ChatRequest,
    EmbeddingRequest,
    ImagePart,
    Message,
    SpeechRequest,
    TextPart,
    ToolCall,
)

PIXEL = "iVBORw0KGgo="


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("write to ada@example.com, please", "write to [email], please"),
        ("Ada <ada.l+news@mail.example.co.uk>.", "Ada <[email]>."),
        ("o'neil_1@sub-domain.example.org!", "[email]!"),
        ("call +1 (555) 010-0123 today", "call [phone] today"),
        ("call +15550100123.", "call [phone]."),
        ("ruf 0049 30 901820 an", "ruf [phone] an"),
        ("+49 (0)30 901820", "[phone]"),
        ("my number is 555-010-0123", "my number is [phone]"),
        ("(020) 7946 0958 or 020 7946 0958", "[phone] or [phone]"),
        ("555.010.0123", "[phone]"),
        ("card 4111 1111 1111 1111 expires 12/29", "card [card] expires 12/29"),
        ("4111-1111-1111-1111", "[card]"),
        ("378282246310005", "[card]"),
        ("4111 1111 1111 1111 12/27 123", "[card] 12/27 123"),
        ("4111111111111111 123", "[card] 123"),
        ("1 4111 1111 1111 1111", "1 [card]"),
        ("3782 822463 10005 1234", "[card] 1234"),
        ("4111 1111 1111 1111 4242 4242 4242 4242", "[card] [card]"),
        ("4111111111111111,4242424242424242", "[card],[card]"),
        ("4111\u00a01111\u00a01111\u00a01111, or 4111.1111.1111.1111.", "[card], or [card]."),
        ("卡号4111111111111111谢谢", "卡号[card]谢谢"),
        ("番号は090-1234-5678です", "番号は[phone]です"),
        ("电话+8613812345678请打", "电话[phone]请打"),
        ("415-555-0123,415-555-0124", "[phone],[phone]"),
        ("+14155550123,+14155550124", "[phone],[phone]"),
        ("Ada,415-555-0123,ada@example.com", "Ada,[phone],[email]"),
        ("415-555-0123x45, or _415-555-0123_ ext. 7", "[phone], or _[phone]_ ext. 7"),
    ],
)
def test_what_has_an_exact_form_is_replaced(said: str, sent: str):
    assert mask(said, EVERY_KIND) == sent


@pytest.mark.parametrize(
    "said",
    [
        "on 2026-11-28 at 14:30:00",
        "it costs $1,234,567.89, or 1.234.567,89 €",
        "order 4111111111111112",  # its check digit is wrong
        "version 3.11.0.1234, build 20261128",
        "192.168.100.200",
        "lines 100-200 of 3000",
        "the range 0.1234567890",
        "call 112 or 911",
        "meet me @ the office",
        "id 550e8400-e29b-41d4-a716-446655440000",
        "0000 0000 0000 0000",
        "2019 2020 2021 2022 2023 2024 2025 2026",
        "3,0123456789 is a fraction",
        "see https://shop.example/orders/0123456789",
        "the build 4111111111111111a",
        "1,234,567,890,123,456",
    ],
)
def test_other_numbers_stay(said: str):
    assert mask(said, EVERY_KIND) == said


def test_only_the_asked_kinds_are_masked():
    said = "ada@example.com +15550100123 4111111111111111"
    assert mask(said, (Personal.EMAIL,)) == "[email] +15550100123 4111111111111111"
    assert mask(said, ()) == said


def test_each_text_of_a_request_is_masked():
    arguments = json.dumps({"to": "ada@example.com", "cards": [4111111111111111], "count": 3, "urgent": True})
    request = ChatRequest(
        messages=(
            Message(role="system", content="The user is ada@example.com."),
            Message(
                role="user",
                content=(
                    TextPart(text="I am ada@example.com"),
                    ImagePart(media_type="image/png", data=PIXEL),
                ),
            ),
            Message(role="assistant", tool_calls=(ToolCall(id="1", name="send", arguments=arguments),)),
            Message(role="tool", tool_call_id="1", content="sent to ada@example.com"),
            Message(role="assistant", tool_calls=(ToolCall(id="2", name="send", arguments="{ada@example.com"),)),
            Message(role="tool", tool_call_id="2", content="-"),
        ),
        max_tokens=10,
    )
    sent = masked(request, EVERY_KIND)
    assert "example.com" not in sent.model_dump_json()
    assert isinstance(sent, ChatRequest)
    called = json.loads(sent.messages[2].tool_calls[0].arguments)
    assert called == {"to": "[email]", "cards": ["[card]"], "count": 3, "urgent": True}
    assert sent.messages[1].images == request.messages[1].images
    assert ChatRequest.model_validate_json(sent.model_dump_json()) == sent
    assert masked(request, ()) is request


def test_what_strings_of_json_say_is_masked():
    said = "call me back:\n415-555-0123\n4111 1111 1111 1111\nada@example.com"
    material = json.dumps({"turns": [{"turn": 1, "text": said, "price": 1.50}]}, ensure_ascii=False)
    sent = masked(ChatRequest(messages=(Message(role="user", content=material),), max_tokens=10), EVERY_KIND)
    assert isinstance(sent, ChatRequest)
    content = sent.messages[0].content
    assert content == material.replace(json.dumps(said)[1:-1], "call me back:\\n[phone]\\n[card]\\n[email]")


def test_texts_to_embed_are_masked_and_tokens_are_not():
    sent = masked(EmbeddingRequest(inputs=("ada@example.com", (1, 2))), EVERY_KIND)
    assert sent == EmbeddingRequest(inputs=("[email]", (1, 2)))


def test_speech_says_what_was_answered():
    request = SpeechRequest(text="I write to ada@example.com", voice="abc")
    assert masked(request, EVERY_KIND) is request


@given(st.text(alphabet="0123456789 +-.()@ab/", max_size=300))
def test_masking_again_changes_nothing(text: str):
    once = mask(text, EVERY_KIND)
    assert mask(once, EVERY_KIND) == once


def test_long_hostile_text_takes_linear_time():
    """A run of characters that could begin a match everywhere: with a quadratic rule this takes minutes."""
    for one in ("a", "1", "1 ", "1234 ", "4111 1111 1111 1111 ", "+1", "a@", "a.", "0", "(1"):
        mask(one * 200_000, EVERY_KIND)
        mask(f"{one * 200_000}x", EVERY_KIND)
