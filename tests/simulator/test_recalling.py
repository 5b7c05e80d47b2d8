"""The simulator answers questions about the user from its prompt alone, and takes the last word for the true one."""

import pytest

from simulator.answers import Answers
from simulator.wire import Message, Prompt

OLDER = "What is known of the user. Where the messages above say otherwise, they are right."


def answered(question: str, *texts: str) -> str:
    """What the simulator answers to a question after these texts of the user."""
    messages = tuple(Message("user", text) for text in (*texts, question))
    return Answers(7, 10**6).answer(Prompt("m", messages), "").text.partition(" This answer")[0]


def record(*lines: str, introduction: str = "What is known of the user.") -> str:
    listed = "\n".join(f"- {line}" for line in lines)
    return f"{introduction}\n<memories>\n{listed}\n</memories>\n\n"


@pytest.mark.parametrize(
    ("said", "question", "answer"),
    [
        ("I live in Bergen.", "Where is my home?", "You said: Bergen."),
        ("My brother lives in Bergen.", "Where is my home?", "You have not said that."),
        ("My brother lives in Bergen.", "Where does my brother live?", "You said: Bergen."),
        ("Do I live in Rome?", "Which city do I live in?", "You have not said that."),
        ("In the story I live in Rome.", "Which city do I live in?", "You have not said that."),
        ("I'm 34 years old. It costs 39 euros.", "How old am I?", "You said: 34."),
        ("I like jazz. I love chess. I no longer enjoy jazz.", "What gives me pleasure?", "You said: chess."),
        ("I no longer work at Acme. I work at Hooli.", "Who is my employer?", "You said: Hooli."),
        ("No, my favorite color is red, not blue.", "What is my favorite color?", "You said: red."),
    ],
)
def test_it_answers_what_the_prompt_says(said: str, question: str, answer: str):
    assert answered(question, said) == answer


def test_it_knows_nothing_that_its_prompt_lacks():
    assert answered("Which city do I live in?") == "You have not said that."


def test_the_last_word_prevails_and_a_record_counts_at_its_place():
    assert answered("Where is my home?", "I live in Bergen.", "We moved to Oslo last month.") == "You said: Oslo."
    question = record("The user lives in Bergen") + "Where is my home?"
    assert answered(question, "I moved to Oslo.") == "You said: Bergen."


def test_a_record_that_yields_to_the_messages_does_not_replace_them():
    question = record("The user lives in Bergen", introduction=OLDER) + "Where is my home?"
    assert answered(question, "I moved to Oslo.") == "You said: Oslo."
    assert answered(question) == "You said: Bergen."
