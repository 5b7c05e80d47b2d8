"""A model's numbers for what was measured: contradictions are replaced, or their sentences dropped."""

import pytest

from parley.domain.coaching.numbers import check_numbers
from parley.domain.speaking import Pauses
from parley.domain.turn_taking import Interruptions
from parley.domain.voice_metrics import Acoustics
from tests.domain.coaching.material import coaching, counted, voice


def checked(text: str, *, share: float = 0.5, listed: bool = True) -> str:
    """A skill's comment after the check: pace 150 (140 with pauses), 5 questions, 12 fillers, 42 s, 40 of 100."""
    found = check_numbers(coaching(comment=text), counted(share=share, listed=listed), voice())
    return found.skills[0].comment


@pytest.mark.parametrize(
    "text",
    [
        "You spoke at 150 words a minute.",
        "The pace of 150 words per minute is calm.",
        "About 145 wpm, which is comfortable.",
        "You asked 5 questions.",
        "You asked five questions, two of them open.",
        "Aim for 120 words a minute.",
        "You spoke at 150 words a minute; try to stay under 130 words a minute.",
        "A comfortable pace is 120 to 160 words a minute.",
        "Faster than 100 words a minute: over 120 wpm.",
        "12 filler words, 1.0 filler words a minute.",
        "Two questions were about the budget.",
        "The longest monologue was 42 seconds.",
        "You spoke 50% of the time.",
        "The customer saves 40% of the calls, or 3,000 euros.",
        "At 00:36 you answered at once.",
        "This skill has 40 of 100, the overall score is 63.",
    ],
)
def test_what_agrees_or_is_advice_stays(text: str):
    assert checked(text) == text


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("You spoke at 210 words a minute.", "You spoke at 150 words a minute."),
        ("You should know that you spoke at 95 wpm.", "You should know that you spoke at 150 wpm."),
        ("Your pace was 95.", "Your pace was 150."),
        ("You spoke at over 200 words per minute.", "You spoke at 150 words per minute."),
        ("Your pace was 210 words a minute, aim for 140 words a minute.",
         "Your pace was 150 words a minute, aim for 140 words a minute."),
        ("The rep asked only twelve questions.", "The rep asked only 5 questions."),
        ("17 questions in total, well done.", "5 questions in total, well done."),
        ("There were 99 filler words.", "There were 12 filler words."),
        ("You used 9.5 filler words per minute.", "You used 1.0 filler words per minute."),
        ("The longest monologue was 180 seconds.", "The longest monologue was 42 seconds."),
        ("A 90-second monologue is too long.", "A 42-second monologue is too long."),
        ("You talked 90% of the time.", "You talked 50% of the time."),
        ("I give this 95/100.", "I give this 40/100."),
        ("The overall score is 99.", "The overall score is 63."),
        ("Sie sprachen mit 210 Wörter pro Minute.", "Sie sprachen mit 150 Wörter pro Minute."),
        ("Good. You spoke at 210 wpm. Go on.", "Good. You spoke at 150 wpm. Go on."),
    ],
)  # fmt: skip
def test_a_contradicted_number_is_replaced_by_the_measured_one(text: str, right: str):
    assert checked(text) == right


def test_a_share_of_the_time_belongs_to_the_one_it_is_about():
    assert checked("The prospect spoke 30% of the time.", share=0.7) == "The prospect spoke 30% of the time."
    assert checked("The prospect spoke 70% of the time.", share=0.7) == "The prospect spoke 30% of the time."
    assert checked("You had 30% of the talk time.", share=0.7) == "You had 70% of the talk time."


def test_a_sentence_is_dropped_where_a_replacement_would_be_a_guess():
    found = check_numbers(
        coaching(comment="Lively. It was 90% of the time one voice.", text="I rate this 99 out of 100."),
        counted(),
        voice(),
    )
    assert {skill.comment for skill in found.skills} == {"Lively."}
    assert found.strengths == ()
    assert found.checks.sentences_dropped == 5


def test_changes_are_counted_and_lines_to_say_stay():
    found = check_numbers(coaching(comment="At 987 wpm.", text="Asked 99 questions."), counted(), voice())
    assert [point.text for point in found.strengths] == ["Asked 5 questions."]
    assert found.improvements[0].better == "At 987 words a minute."
    assert found.checks.warnings() == ("coaching: 5 numbers of the model replaced by the measured ones",)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("You said 'um' 25 times.", "You said 'um' 8 times."),
        ('You said “um” 25 times, and "uh" 9 times.', 'You said “um” 8 times, and "uh" 4 times.'),
        ("You said 'um' and 'uh' 25 times.", "You said 'um' and 'uh' 12 times."),
        ("You said 'um', 'uh' and 'erm' 25 times.", "You said 'um', 'uh' and 'erm' 12 times."),
        ('25 "um"s are a lot.', '8 "um"s are a lot.'),
        ('There were thirty instances of "um" in it.', 'There were 8 instances of "um" in it.'),
        ("Good. You said 'er' 3 times.", "Good."),
        ("You used 'um' 8 times.", "You used 'um' 8 times."),
        ("You said 'price' 5 times.", "You said 'price' 5 times."),
        ("You said 'um' too often: aim for at most 2 times.", "You said 'um' too often: aim for at most 2 times."),
    ],
)
def test_how_often_a_quoted_filler_word_was_said_is_counted(text: str, right: str):
    fillers = counted().filler_words.model_copy(update={"by_word": {"um": 8, "uh": 4}})
    found = check_numbers(coaching(comment=text), counted().model_copy(update={"filler_words": fillers}), voice())
    assert found.skills[0].comment == right


def test_fillers_of_a_language_without_a_list_are_not_measured():
    assert checked("There were 99 filler words.", listed=False) == "There were 99 filler words."


MEASURED = counted().model_copy(
    update={
        "interruptions": Interruptions(by_user=0, by_others=2, overlap_seconds=1.0),
        "response_latency_seconds": 0.8,
    }
)
HEARD = voice().model_copy(
    update={
        "pauses": Pauses(count=4, total_seconds=4.0, mean_seconds=1.0, longest_seconds=1.5),
        "tonality": 73,
        "energy": None,
        "acoustics": Acoustics(
            pitch_median_hz=120, pitch_variation_semitones=3.2, pitch_range_semitones=9.4, loudness_db=-24.0
        ),
    }
)


@pytest.mark.parametrize(
    "text",
    [
        "You interrupted the prospect 0 times.",
        "The prospect interrupted you twice, 2 times in all.",
        "You were interrupted 2 times.",
        "There were two interruptions.",
        "You took 0.8 seconds to answer.",
        "You paused 4 times.",
        "A pause of 1 second helped.",
        "The longest pause was 1.5 seconds.",
        "Leave a pause of 3 seconds, and answer within 2 seconds.",
        "Your pitch varied by 3.2 semitones around 120 Hz.",
        "Your tonality score was 73.",
        "Your tonality was 73 out of 100.",
        "You asked 3 open questions.",
        "You used 5 distracting filler words.",
        "Thirty-five people came.",
    ],
)
def test_what_agrees_with_the_voice_and_the_turns_stays(text: str):
    found = check_numbers(coaching(text=text), MEASURED, HEARD)
    assert [point.text for point in found.strengths] == [text]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("You interrupted the prospect 7 times.", "You interrupted the prospect 0 times."),
        ("The rep often interrupted her five times.", "The rep often interrupted her 0 times."),
        ("The prospect interrupted you 5 times.", "The prospect interrupted you 2 times."),
        ("You were interrupted 9 times.", "You were interrupted 2 times."),
        ("Good. There were 7 interruptions.", "Good."),
        ("You took 6 seconds to answer.", "You took 0.8 seconds to answer."),
        ("You answered after 6 seconds on average.", "You answered after 0.8 seconds on average."),
        ("Your response time was 4 s.", "Your response time was 0.8 s."),
        ("Good. The prospect took 6 seconds to answer.", "Good."),
        ("You paused 14 times.", "You paused 4 times."),
        ("The longest pause was 9 seconds.", "The longest pause was 1.5 seconds."),
        ("Good. There was a 9-second pause.", "Good."),
        ("Good. You left a long pause of 9 seconds.", "Good."),
        ("Good. Your pitch varied by 14 semitones.", "Good."),
        ("Your voice is at 240 Hz.", "Your voice is at 120 Hz."),
        ("Good. Your voice has -40 dB.", "Good."),
        ("Your tonality score was 95.", "Your tonality score was 73."),
        ("Your tonality was 95 out of 100.", "Your tonality was 73 out of 100."),
        ("Good. Your energy score was 95.", "Good."),
        ("Good. You asked 12 open questions.", "Good."),
        ("You asked twenty-one questions.", "You asked 5 questions."),
        ("You used thirty fillers.", "You used 12 fillers."),
        ("Good. You used thirty nine distracting fillers.", "Good."),
    ],
)
def test_what_contradicts_the_voice_and_the_turns_is_replaced_or_dropped(text: str, right: str):
    found = check_numbers(coaching(text=text), MEASURED, HEARD)
    assert [point.text for point in found.strengths] == [right]


@pytest.mark.parametrize(
    "claim",
    ["You interrupted 3 times.", "You took 2 seconds to answer.", "You paused 4 times.", "It varied by 3 semitones."],
)
def test_a_number_for_what_was_not_measured_is_dropped(claim: str):
    silent = voice().model_copy(update={"pauses": None})
    found = check_numbers(coaching(text=f"Good. {claim}"), counted(), silent)
    assert [point.text for point in found.strengths] == ["Good."]
