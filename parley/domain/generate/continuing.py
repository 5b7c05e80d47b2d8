"""The request that continues an answer whose stream broke after text was delivered."""

from parley.domain.model import is_blank
from parley.domain.requests import ChatRequest, Message

# Anthropic's newest models refuse a prompt that ends with an assistant's message, and OpenAI's begin a new answer after
# it: a message of the user says what to do, to every model.
INSTRUCTION = (
    "Your answer was interrupted. Continue it exactly where it ends, in the middle of a word if it ends there. Repeat "
    "nothing of it, do not begin again, and do not mention the interruption."
)
# A tool call is not delivered before the answer is complete, and so has to be made again.
TOOLS = " If you were calling a tool, or were about to, call it after that."
# Few tokenisers make more than one token of four bytes of usual text. A continuation has room for a last sentence.
BYTES_PER_TOKEN, LEAST_TOKENS = 4, 64


def continuing(request: ChatRequest, text: str) -> ChatRequest:
    """The request for the rest of an answer, of which `text` was delivered. It has the room that is left."""
    if is_blank(text):
        return request
    instruction = INSTRUCTION + TOOLS if request.tools else INSTRUCTION
    asked = (Message(role="assistant", content=text), Message(role="user", content=instruction))
    left = max(request.max_tokens - len(text.encode()) // BYTES_PER_TOKEN, min(LEAST_TOKENS, request.max_tokens))
    return request.model_copy(update={"messages": (*request.messages, *asked), "max_tokens": left})
