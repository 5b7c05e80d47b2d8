"""What readers still need of an answer, and the request that continues one."""

import pytest

from parley.domain.generate.continuing import INSTRUCTION, TOOLS, continuing
from parley.domain.requests import ChatRequest, Message, Tool, ToolCall
from parley.domain.streaming import TextDelta, ToolCallDelta, remaining

CALL = ToolCall(id="c1", name="look", arguments='{"a": 1}')
CALLED = ToolCallDelta(index=0, id="c1", name="look", arguments='{"a": 1}')
REQUEST = ChatRequest(messages=(Message(role="user", content="Why?"),), max_tokens=100)


class TestRemaining:
    @pytest.mark.parametrize(
        ("delivered", "rest"),
        [
            ((), [TextDelta(text="Because."), CALLED]),
            ((TextDelta(text="Be"), TextDelta(text="cause")), [TextDelta(text="."), CALLED]),
            ((TextDelta(text="Because."),), [CALLED]),
            ((TextDelta(text="Because."), CALLED), []),
        ],
    )
    def test_is_what_was_not_delivered(self, delivered, rest):
        assert list(remaining("Because.", (CALL,), delivered)) == rest

    def test_is_not_defined_for_another_answer(self):
        with pytest.raises(ValueError, match="not the beginning"):
            list(remaining("Because.", (), (TextDelta(text="Why"),)))


class TestContinuing:
    def test_gives_the_text_and_asks_for_the_rest_in_the_room_that_is_left(self):
        request = continuing(REQUEST, "x" * 80)
        assert request.messages[1:] == (
            Message(role="assistant", content="x" * 80),
            Message(role="user", content=INSTRUCTION),
        )
        assert request.max_tokens == 80

    def test_says_that_a_tool_may_have_to_be_called_again(self):
        request = REQUEST.model_copy(update={"tools": (Tool(name="end_call", description="Hang up."),)})
        assert continuing(request, "Good bye.").messages[-1].text == INSTRUCTION + TOOLS

    def test_leaves_room_for_a_last_sentence(self):
        assert continuing(REQUEST, "x" * 4000).max_tokens == 64
        assert continuing(REQUEST.model_copy(update={"max_tokens": 9}), "x" * 4000).max_tokens == 9

    def test_repeats_the_request_if_nothing_was_seen(self):
        assert continuing(REQUEST, " ") == REQUEST
