"""The simulator answers questions about the user from its prompt alone, and takes the last word for the true one."""

import pytest

from simulator.answers import Answers
from simulator.wire import Message, Prompt

OLDER = "What is known of the user. Where the messages above say otherwise, they are right."


def told(question: str, *texts: str) -> str:
    """What the simulator answers to a question after these texts of the user."""
    messages = tuple(Message("user", text) for text in (*texts, question))
    return Answers(7, 10**6).answer(Prompt("m", messages), "").text.partition(" This answer")[0]


def record(*lines: str, introduction: str = "What is known of the user.") -> str:
    listed = "\n".join(f"- {line}" for line in lines)
    return f"{introduction}\n<memories>\n{listed}\n</memories>\n\n"


@pytest.mark.parametrize(
    ("said", "question", "answer"),
    [
        ("I live in Bergen.", "Where is my home?", "You told me: Bergen."),
        ("My brother lives in Bergen.", "Where is my home?", "You have not told me that."),
        ("My brother lives in Bergen.", "Where does my brother live?", "You told me: Bergen."),
        ("Do I live in Rome?", "Which city do I live in?", "You have not told me that."),
        ("In the story I live in Rome.", "Which city do I live in?", "You have not told me that."),
        ("I'm 34 years old. It costs 39 euros.", "How old am I?", "You told me: 34."),
        ("I like jazz. I love chess. I no longer enjoy jazz.", "What gives me pleasure?", "You told me: chess."),
        ("I no longer work at Acme. I work at Hooli.", "Who is my employer?", "You told me: Hooli."),
        ("No, my favorite color is red, not blue.", "What is my favorite color?", "You told me: red."),
    ],
)
def test_it_answers_what_the_prompt_says(said: str, question: str, answer: str):
    assert told(question, said) == answer


def test_it_knows_nothing_that_its_prompt_lacks():
    assert told("Which city do I live in?") == "You have not told me that."


def test_the_last_word_prevails_and_a_record_counts_where_it_stands():
    assert told("Where is my home?", "I live in Bergen.", "We moved to Oslo last month.") == "You told me: Oslo."
    question = record("The user lives in Bergen") + "Where is my home?"
    assert told(question, "I moved to Oslo.") == "You told me: Bergen."


def test_a_record_that_yields_to_the_messages_does_not_replace_them():
    question = record("The user lives in Bergen", introduction=OLDER) + "Where is my home?"
    assert told(question, "I moved to Oslo.") == "You told me: Oslo."
    assert told(question) == "You told me: Bergen."
