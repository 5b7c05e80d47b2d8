"""The order of tests: all of them, the long ones first in each process."""

from dataclasses import dataclass
from itertools import pairwise

import pytest

from tests.order import SECONDS, arrange
from tests.parts import ROOT


@dataclass(frozen=True)
class Item:
    nodeid: str


LONG = [Item(f"tests/{name}::test_{number}") for name in SECONDS for number in range(2)]
QUICK = [Item(f"tests/domain/test_quick.py::test_{number}") for number in range(400)]


def is_long(item: Item) -> bool:
    return item in LONG


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_every_process_begins_with_its_share_of_the_long_tests(processes: int) -> None:
    arranged = arrange([*QUICK[:200], *LONG, *QUICK[200:]], processes)  # pyright: ignore
    assert sorted(arranged, key=str) == sorted([*LONG, *QUICK], key=str)
    ends = [len(arranged) * place // processes for place in range(processes + 1)]
    parts = [arranged[begin:end] for begin, end in pairwise(ends)]
    for part in parts:
        long = [item for item in part if is_long(item)]
        assert long == part[: len(long)]
        assert len(long) >= len(LONG) // processes // 2


@pytest.mark.parametrize("processes", [1, 3])
def test_the_tests_of_a_file_stay_together(processes: int) -> None:
    arranged = arrange(LONG, processes)  # pyright: ignore
    files = [item.nodeid.partition("::")[0] for item in arranged]
    assert files[::2] == files[1::2]


def test_a_part_of_the_tests_may_be_selected() -> None:
    assert arrange(QUICK[:2], 3) == QUICK[:2]  # pyright: ignore
    assert arrange([], 2) == []


def test_every_file_of_the_list_exists() -> None:
    assert [name for name in SECONDS if not (ROOT / "tests" / name).is_file()] == []
