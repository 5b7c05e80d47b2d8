"""The CPU time of the simulator's labels: it must stay small beside the work that the other benchmarks measure."""

import asyncio
import time
from itertools import pairwise

from benchmarks.options import Figures, Options
from parley.domain.auto_analyze import prompts
from parley.domain.chat import ChatMessage, ChatSession, Containment
from simulator.answers import Answers
from simulator.wire import Message, Prompt

LINE = "I would like to find a restaurant in San Jose for four people on the 4th, is there one with outside seats?"
SIZES = (20, 200, 2000)
REPEATS = 5


async def measure(options: Options) -> Figures:  # noqa: ARG001 - it depends on none
    """The CPU time of a session's labels, and its growth with ten times the messages: 10 is linear."""
    spent = {messages: await asyncio.to_thread(_milliseconds, messages) for messages in SIZES}
    return {
        "milliseconds of CPU for a session": {f"{size} messages": round(spent[size], 2) for size in SIZES},
        "growth": {
            f"{small} to {large} messages": round(spent[large] / spent[small], 1) for small, large in pairwise(SIZES)
        },
    }


def _milliseconds(messages: int) -> float:
    """The least of some repetitions, because others use the same processors."""
    said = tuple(ChatMessage(role=("user", "bot")[number % 2], text=f"{LINE} {number}") for number in range(messages))
    chat = ChatSession(session_id="s", user_id="u", containment=Containment.SELF_SERVICE, messages=said)
    request = prompts.classification_request({"s": chat}, {}, {})
    sent = tuple(Message(message.role, message.text) for message in request.messages)
    prompt = Prompt("m", sent, max_tokens=request.max_tokens, schema=request.response_schema)
    answers = Answers(7, 10**9)
    return min(_timed(answers, prompt) for _ in range(REPEATS))


def _timed(answers: Answers, prompt: Prompt) -> float:
    began = time.thread_time()
    answers.answer(prompt, "")
    return 1000 * (time.thread_time() - began)
