"""A recorded voice session: its turns, with speakers and times."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from parley.domain.model import Model, Name, Text, not_blank

MAX_SESSION_SECONDS = 8 * 3600.0
# A BCP 47 tag. It is part of the system prompt, so it must not be arbitrary text.
LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,4}$"


def _to_the_microsecond(seconds: float) -> float:
    return round(seconds, 6)


Seconds = Annotated[float, Field(ge=0, le=MAX_SESSION_SECONDS), AfterValidator(_to_the_microsecond)]


class Word(Model):
    """One spoken word, times in seconds from the start of the session."""

    text: Text
    start: Seconds
    end: Seconds


class Turn(Model):
    """An uninterrupted stretch of one speaker. `rep` is the sales representative being coached. Times in seconds."""

    role: Literal["rep", "prospect"]
    start: Seconds
    end: Seconds
    text: Annotated[Text, AfterValidator(not_blank)]
    words: tuple[Word, ...] = ()

    @model_validator(mode="after")
    def _times_run_forward(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"ends at {self.end} before it starts at {self.start}")
        at = 0.0
        for number, word in enumerate(self.words):
            if word.start < at or word.end < word.start:
                raise ValueError(f"words out of order: word {number} ({word.text[:20]!r}) starts at {word.start}")
            at = word.start
        return self


class Session(Model):
    """One sales practice session as a product sends it."""

    session_id: Name
    user_id: Name
    prospect_id: Name | None = None
    scenario: Text = ""
    language: str = Field(default="en", pattern=LANGUAGE)
    duration_seconds: float = Field(gt=0, le=MAX_SESSION_SECONDS)
    turns: tuple[Turn, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _turns_are_in_order(self) -> Self:
        at = 0.0
        for number, turn in enumerate(self.turns):
            if turn.start < at:
                raise ValueError(f"turns out of order: turn {number} starts at {turn.start}, before {at}")
            at = turn.start
        return self

    @property
    def speakers(self) -> int:
        return len({turn.role for turn in self.turns})
