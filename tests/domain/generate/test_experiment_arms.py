"""Which user is in which arm."""

import subprocess
import sys
from collections import Counter

import pytest

from parley.domain.generate.planning import experiment_arm
from parley.domain.generate.policy import Experiment
from tests.parts import ROOT

USERS = [f"user-{number}" for number in range(10_000)]


def experiment(**arms: int) -> Experiment:
    return Experiment(action="ai_message", arms=arms)


def split(given: Experiment, name: str = "voice") -> dict[str, str]:
    return {user: experiment_arm(name, given, user) for user in USERS}


@pytest.mark.parametrize("arms", [{"casual": 1, "concise": 1}, {"casual": 3, "concise": 1}, {"a": 1, "b": 2, "c": 7}])
def test_users_are_distributed_by_weight(arms: dict[str, int]):
    counted = Counter(split(experiment(**arms)).values())
    for name, weight in arms.items():
        assert counted[name] / len(USERS) == pytest.approx(weight / sum(arms.values()), abs=0.02)


def test_the_arm_of_a_user_does_not_depend_on_the_process_or_the_order_of_arms():
    here = split(experiment(casual=2, concise=1, technical=1))
    assert split(experiment(technical=1, concise=1, casual=2)) == here
    script = (
        "from parley.domain.generate.planning import experiment_arm; "
        "from parley.domain.generate.policy import Experiment; "
        "given = Experiment(action='a', arms={'casual': 2, 'concise': 1, 'technical': 1}); "
        "print(*(experiment_arm('voice', given, f'user-{number}') for number in range(50)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [here[user] for user in USERS[:50]]


def test_the_arms_of_these_users_never_change():
    """A change of the split would move users in the middle of every running experiment."""
    arms = [experiment_arm("voice", experiment(casual=1, concise=1), f"user-{number}") for number in range(8)]
    assert " ".join(arms) == "concise concise casual casual casual concise casual casual"


def test_an_added_arm_moves_no_user_between_the_other_arms():
    before, after = split(experiment(casual=1, concise=1)), split(experiment(casual=1, concise=1, creative=2))
    moved = {user for user in USERS if before[user] != after[user]}
    assert {after[user] for user in moved} == {"creative"}
    assert len(moved) / len(USERS) == pytest.approx(0.5, abs=0.02)


def test_two_experiments_split_independently():
    given = experiment(casual=1, concise=1)
    one, other = split(given, "voice"), split(given, "length")
    same = sum(one[user] == other[user] for user in USERS)
    assert same / len(USERS) == pytest.approx(0.5, abs=0.02)
