"""The order of tests: the long ones first, in every test process. Begun late, they would run while the others idle."""

from collections.abc import Sequence
from pathlib import PurePath

import pytest

# The files with tests that take long, most of it waiting, with about the seconds of all their tests.
SECONDS = {
    "faults/test_auto_analyze.py": 100,
    "faults/test_batch_kill.py": 100,
    "faults/test_conversation_kill.py": 20,
    "faults/test_gateway_kill.py": 20,
    "faults/test_generate_budget.py": 20,
    "faults/test_generate_kill.py": 50,
    "faults/test_generate_outage.py": 25,
    "faults/test_generate_recover.py": 20,
    "faults/test_generate_worker_lost.py": 50,
    "faults/test_joint_kill.py": 25,
    "faults/test_kill.py": 50,
    "faults/test_phone_kill.py": 40,
    "faults/test_provisional_kill.py": 20,
    "faults/test_stream_kill.py": 20,
    "faults/test_talking_kill.py": 30,
    "gateway/phone/test_every_fault.py": 50,
    "gateway/phone/test_every_step.py": 40,
    "gateway/test_energy_race.py": 20,
    "packaging/test_service_tests.py": 30,
    "packaging/test_wheel.py": 60,
    "starter/test_background.py": 35,
    "starter/test_demo.py": 40,
    "workflows/test_batch_processing.py": 40,
    "workflows/test_conversation_recovery.py": 40,
    "workflows/test_generate.py": 60,
    "workflows/test_reassignment.py": 40,
}


def arrange(items: Sequence[pytest.Item], processes: int) -> list[pytest.Item]:
    """The tests in an order whose equal parts, one for each process, begin with long tests of about equal duration.

    The scheduler of `--dist worksteal` divides the tests in this way. A process that has no tests left takes over the
    last ones of another's part, so that the tests of a long file, which may share a fixture, stay in one process.
    """
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(_name(item), []).append(item)
    begins = [list[str]() for _ in range(processes)]
    for name in sorted(files.keys() & SECONDS.keys(), key=lambda name: (-SECONDS[name], name)):
        min(begins, key=_seconds).append(name)
    rest = iter([item for name, own in files.items() if name not in SECONDS for item in own])
    arranged: list[pytest.Item] = []
    for place, names in enumerate(begins):
        part = [item for name in names for item in files[name]]
        end = len(items) * (place + 1) // processes
        arranged += part
        arranged += (item for _, item in zip(range(len(arranged), end), rest, strict=False))
    return [*arranged, *rest]


def _name(item: pytest.Item) -> str:
    """The path below tests/."""
    return PurePath(item.nodeid.partition("::")[0]).as_posix().removeprefix("tests/")


def _seconds(names: Sequence[str]) -> int:
    return sum(SECONDS[name] for name in names)
