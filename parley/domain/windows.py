"""How much a model can read and write at once."""

from parley.domain.model import Model

# Beyond these, models begin to drop or mix up sessions of a batch.
DEFAULT_CAP = 20


class Window(Model):
    """A model's context window and longest reply, in tokens, and the most sessions to ask of it at once."""

    context: int
    reply: int
    cap: int = DEFAULT_CAP


# By the longest prefix of the model's name. Source: the vendors' model pages.
WINDOWS = {
    "": Window(context=8_000, reply=4_000, cap=4),
    "gpt-3.5": Window(context=16_000, reply=4_000),
    "gpt-4o": Window(context=128_000, reply=16_000),
    "gpt-4.1": Window(context=1_000_000, reply=32_000, cap=50),
    "gpt-5": Window(context=400_000, reply=128_000, cap=50),
    "claude": Window(context=200_000, reply=32_000),
    "claude-3-5": Window(context=200_000, reply=8_000),
}
# A model that nothing is known of. What is sized for it is small enough for nearly every other.
CAREFUL = ""


def window(model: str) -> Window:
    """The window of a model by its name; a careful default for names that are not known."""
    return WINDOWS[max((prefix for prefix in WINDOWS if model.startswith(prefix)), key=len)]


def narrower(model: str, other: str) -> bool:
    """Whether a model's context window is the smaller one."""
    return window(model).context < window(other).context
