"""Which arm of an experiment a user is in: always the same one, wherever it is asked."""

import json

from parley.domain.generate.policy import Experiment
from parley.domain.routing import draw


def arm(name: str, experiment: Experiment, user_id: str) -> str:
    """The arm of a user. Users fall into the arms in proportion to their weights.

    A change of weights moves no more users than it must: each arm draws for itself, so that an arm which is added
    takes users from the others and never moves one between them.
    """
    return min(experiment.arms, key=lambda one: draw(json.dumps([name, one, user_id]), experiment.arms[one]))
