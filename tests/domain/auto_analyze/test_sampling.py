from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from pydantic import ValidationError

from parley.domain.auto_analyze.contract import DiscoveryTerms
from parley.domain.auto_analyze.sampling import SessionFacts, coverage, discovery_sample, least_sample, sample_size
from parley.domain.chat import Containment
from tests.domain.auto_analyze.chats import KINDS, MONDAY, alike, mixed_facts

TERMS = DiscoveryTerms()


@pytest.mark.parametrize(
    ("sessions", "size"),
    [(0, 0), (1, 1), (49, 49), (50, 50), (100, 50), (333, 50), (334, 51), (400, 60), (1000, 150), (1_000_000, 150)],
)
def test_the_size_is_a_share_within_bounds(sessions: int, size: int):
    assert sample_size(sessions, TERMS) == size


def test_the_sample_size_depends_on_the_terms():
    assert sample_size(800, DiscoveryTerms(target_percentage=10)) == 80
    assert sample_size(10, DiscoveryTerms(target_percentage=1, min_sessions=1)) == 1
    assert sample_size(10, DiscoveryTerms(target_percentage=100, min_sessions=1, max_sessions=4)) == 4


@pytest.mark.parametrize(("sessions", "least"), [(40, 40), (400, 50), (700, 70), (1000, 100), (5000, 150)])
def test_discovery_may_end_early_from_the_least_share_on(sessions: int, least: int):
    assert least_sample(sessions, TERMS) == least <= sample_size(sessions, TERMS)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([], 1.0),
        (["a", "b"], 0.0),
        (["a"] * 18 + ["b", "c"], 0.9),
        (["a", "b", "a", "b", "a"], 1.0),
        (["a", None, None, None], 0.75),
        ([None, None], 1.0),
    ],
)
def test_coverage_is_one_minus_the_labels_seen_once_over_all_sessions(labels: list[str | None], expected: float):
    """A session without a label of the kind is an observation too: it brought no new label."""
    assert coverage(labels) == pytest.approx(expected)


@pytest.mark.parametrize("bounds", [{"min_sessions": 151}, {"max_sessions": 49}])
def test_bounds_in_the_wrong_order_are_refused(bounds: dict[str, int]):
    least, most = bounds.get("min_sessions", 50), bounds.get("max_sessions", 150)
    with pytest.raises(ValidationError) as refused:
        DiscoveryTerms(**bounds)
    assert f"min_sessions ({least}) is above max_sessions ({most})" in str(refused.value)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 51, 999])
def test_a_sample_has_existing_sessions_without_repeats(count: int):
    sample = discovery_sample(mixed_facts(count), TERMS, seed=7)
    assert len(sample) == len(set(sample)) == sample_size(count, TERMS)
    assert set(sample) <= set(range(count))


def test_no_sessions_give_no_sample():
    assert discovery_sample([], TERMS, seed=7) == []


def test_the_sample_depends_on_the_seed():
    facts = mixed_facts(1000)
    first, again, other = (discovery_sample(facts, TERMS, seed) for seed in (7, 7, 8))
    assert first == again
    assert set(first) != set(other)


def test_the_sample_does_not_depend_on_the_order_of_the_sessions():
    facts = mixed_facts(500)
    backwards = list(reversed(facts))
    assert discovery_sample(facts, TERMS, 7) == discovery_sample(backwards, TERMS, 7)


def third(facts: SessionFacts) -> int:
    return facts.tokens * 3 // 1010


def quarter(facts: SessionFacts) -> int:
    assert facts.started_at
    return (facts.started_at - MONDAY) // timedelta(minutes=250)


VIEWS: dict[str, tuple[Callable[[SessionFacts], object], int]] = {
    "length": (third, 3),
    "containment": (lambda facts: facts.containment, 3),
    "time": (quarter, 4),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [12, 20, 50, 150])
def test_every_stratum_is_sampled_about_equally(size: int, view: str):
    facts, (of, strata) = mixed_facts(1000), VIEWS[view]
    terms = DiscoveryTerms(min_sessions=size, max_sessions=size)
    sampled = Counter(of(facts[position]) for position in discovery_sample(facts, terms, seed=7))
    assert len(sampled) == strata
    assert min(sampled.values()) >= size / strata / 2


def test_the_first_sessions_of_a_sample_cover_every_stratum():
    facts = mixed_facts(1000)
    first = [facts[position] for position in discovery_sample(facts, TERMS, seed=7)[:6]]
    assert {third(fact) for fact in first} == {0, 1, 2}
    assert {fact.containment for fact in first} == set(KINDS)
    assert {quarter(fact) for fact in first} == {0, 1, 2, 3}


def test_the_only_session_of_its_containment_is_among_the_first_two():
    facts = alike(1000)
    facts[617] = facts[617]._replace(containment=Containment.DROP_OFF)
    assert 617 in discovery_sample(facts, TERMS, seed=7)[:2]


def test_identical_sessions_are_sampled_from_every_part_of_the_file():
    sample = discovery_sample(alike(1000), TERMS, seed=7)
    assert len(set(sample)) == 150
    assert {position // 250 for position in sample} == {0, 1, 2, 3}


def of_quarters(sample: Sequence[int], count: int) -> set[int]:
    return {position * 4 // count for position in sample}


def test_without_times_the_position_in_the_file_replaces_them():
    terms = DiscoveryTerms(min_sessions=4, max_sessions=4)
    assert of_quarters(discovery_sample(alike(400, started_at=None), terms, seed=7), 400) == {0, 1, 2, 3}


def test_sessions_with_and_without_times_can_be_in_one_file():
    facts = [fact._replace(started_at=None) if fact.position % 2 else fact for fact in mixed_facts(400)]
    sample = discovery_sample(facts, TERMS, seed=7)
    assert {position % 2 for position in sample} == {0, 1}
    assert len(set(sample)) == 60
