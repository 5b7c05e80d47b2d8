"""Sessions that are short enough to share a request, and what the simulator would bill for them."""

from typing import Any

from parley import BilledAttempt
from parley.domain.session import Session, Turn


def short(number: int, said: str = "What do you use today?") -> Session:
    """A session of one user among many. `said`: the question of the rep."""
    turns = (
        Turn(role="rep", start=0, end=3, text=f"My name is Ann, caller {number}. {said}"),
        Turn(role="prospect", start=4, end=6, text="We have a tool, and it is too expensive."),
    )
    return Session(
        session_id=f"short-{number}", user_id=f"user-{number}", language="en", duration_seconds=6, turns=turns
    )


def listed(requests: list[dict[str, Any]]) -> list[BilledAttempt]:
    """The simulator's requests as a provider lists them: one line for each request, whatever it carries."""
    counts = ("attempt_id", "billed", "input_tokens", "output_tokens")
    return [
        BilledAttempt(source=f"line {line}", **{name: one[name] for name in counts})
        for line, one in enumerate(requests)
    ]
