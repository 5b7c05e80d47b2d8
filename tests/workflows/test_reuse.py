"""What a free user with more than two analyses gets again: the same content, a similar session, or the cheap path."""

from typing import Any

import pytest

from parley import Client, Settings
from parley.client.reading import read_session
from parley.domain.session import Session
from parley.domain.session_analysis import Analysis, Step, Strategy
from tests.parts import SAMPLES, SimulatorAdmin, by_meaning

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """What is said in other words is found by its meaning."""
    return by_meaning(settings)


FERRIES = SAMPLES / "price-negotiation-ferries.json"
PACE = 1.04


def held_again(session: Session, *changes: tuple[str, str], **fields: Any) -> Session:
    """The session as it is held and transcribed again, a little slower, with other hesitations and words."""
    turns = [turn.model_dump(exclude={"words"}) for turn in session.turns]
    for turn in turns:
        turn["start"], turn["end"] = turn["start"] * PACE, turn["end"] * PACE
        for old, new in (("the, um, the dry dock", "the dry dock"), ("won't pretend", "will not pretend"), *changes):
            turn["text"] = turn["text"].replace(old, new)
    duration = session.duration_seconds * PACE
    given = {"session_id": "ferries-again", "turns": turns, "duration_seconds": duration, "warnings": (), **fields}
    return Session.model_validate(session.model_dump() | given)


async def analysed(client: Client, session: Session, **terms: Any) -> Analysis:
    report = await (await client.analyze(session, **terms)).result()
    assert report.analysis is not None
    return report.analysis


@pytest.fixture
async def ferries(client: Client) -> Session:
    """A session of a free user who has had three analyses."""
    session = read_session(FERRIES)
    for number in range(3):
        await analysed(client, session, run_name=str(number))
    return session


async def test_a_similar_session_has_the_coaching_of_the_earlier_one_with_its_own_numbers_and_moments(
    client: Client, simulator: SimulatorAdmin, ferries: Session
) -> None:
    earlier = await analysed(client, ferries, run_name="2")
    again = held_again(ferries)
    report = await (await client.analyze(again)).result()
    analysis = report.analysis
    assert analysis is not None
    assert analysis.strategy is Strategy.CACHED_ANALYSIS
    assert analysis.reused is not None
    assert (analysis.reused.kind, analysis.reused.session_id) == ("similar", ferries.session_id)
    assert 90 < analysis.reused.similarity < 100
    assert analysis.reused.cosine > 0.9
    assert any("similar session 'price-negotiation-ferries'" in warning for warning in analysis.warnings)
    assert analysis.coaching.overall_score == earlier.coaching.overall_score
    for point in (*analysis.coaching.strengths, *analysis.coaching.improvements):
        assert point.moment is not None
        turn = again.turns[point.moment.turn]
        assert point.moment.quote.rstrip("…") in turn.text
        assert turn.start <= point.moment.start <= turn.end
    assert analysis.voice_metrics.pace_wpm != earlier.voice_metrics.pace_wpm
    assert [source.step for source in analysis.provenance] == [Step.COACHING]
    assert report.costs.lines == ()
    assert report.costs.energy_charged == 0
    assert len(await simulator.billed()) == 3


@pytest.mark.parametrize(
    "change",
    [("four vessels", "five vessels"), ("can't move on that", "can move on that"), ("Keelmend", "Portlog")],
    ids=["number", "negation", "product"],
)
async def test_a_near_miss_takes_the_cheap_path(
    change: tuple[str, str], client: Client, simulator: SimulatorAdmin, ferries: Session
) -> None:
    analysis = await analysed(client, held_again(ferries, change))
    assert analysis.strategy is Strategy.COST_OPTIMIZED
    assert "none of this or a similar conversation" in analysis.strategy_reason
    assert analysis.reused is None
    assert (await simulator.billed())[-1]["provider"] == "openai"


async def test_the_coaching_of_another_user_is_not_used_again(client: Client, ferries: Session) -> None:
    for number in range(3):
        await analysed(client, held_again(ferries, ("Aurelia", "Aurora"), user_id="another"), run_name=str(number))
    analysis = await analysed(client, held_again(ferries, user_id="another"))
    assert analysis.strategy is Strategy.COST_OPTIMIZED
    assert analysis.reused is None


async def test_coaching_that_knows_how_a_recording_sounds_is_not_used_for_another_one(
    client: Client, simulator: SimulatorAdmin
) -> None:
    session = read_session(FERRIES)
    recording = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()
    for number in range(3):
        await analysed(client, session, audio=recording, run_name=str(number))
    again = held_again(session)
    assert (await analysed(client, again)).reused is None
    same_recording = await analysed(client, again, audio=recording)
    assert same_recording.reused is not None
    assert same_recording.voice_metrics.tonality is not None
    assert len(await simulator.billed()) == 2 * 3 + 1


async def test_the_same_content_has_its_warnings_again_and_says_that_it_was_analysed_before(client: Client) -> None:
    repaired = read_session(FERRIES).model_copy(update={"warnings": ("turns.0: 1 word is without a usable time",)})
    first = [await analysed(client, repaired, run_name=str(number)) for number in range(3)][-1]
    again = await analysed(client, repaired)
    assert again.reused is not None
    assert again.reused.kind == "exact"
    assert "turns.0: 1 word is without a usable time" in first.warnings
    assert again.warnings == (again.reused.warning(), *first.warnings)
    assert "the same content was analysed before" in again.warnings[0]
