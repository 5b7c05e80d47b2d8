"""Grades an answer by its words: how many of the question's it takes up."""

from typing import Any

from simulator.text import keywords

COMPARED = 20


def graded(question: str, answer: str) -> dict[str, Any]:
    """A grade from 0 to 1. What either text says about grades makes no difference."""
    asked, said = keywords(question, COMPARED), set(keywords(answer, 10 * COMPARED))
    taken_up = sum(word in said for word in asked)
    score = round(taken_up / len(asked), 3) if asked else float(bool(said))
    return {"reason": f"The answer takes up {taken_up} of the {len(asked)} words of the question.", "score": score}
