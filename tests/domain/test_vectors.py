import base64
import struct

import pytest

from parley.domain.vectors import length, packed, unpacked

NUMBERS = [0.5, -1.0, 3.0517578125e-05]


def test_a_vector_comes_back_exactly():
    assert unpacked(packed(NUMBERS)) == NUMBERS
    assert length(packed(NUMBERS)) == 3


def test_it_is_base64_of_float32_with_the_lowest_byte_first():
    assert base64.b64decode(packed(NUMBERS)) == struct.pack("<3f", *NUMBERS)


def test_what_is_packed_already_stays():
    assert packed(packed(NUMBERS)) == packed(NUMBERS)


@pytest.mark.parametrize(
    "broken",
    [
        *([], "", None, {}, 1.0, ["a"], [None], [[1.0]], "no base64!", "AAA=", base64.b64encode(b"12345").decode()),
        *([float("nan")], [float("inf"), float("-inf")], [1e39], [10**400]),
        base64.b64encode(struct.pack("<2f", 1.0, float("nan"))).decode(),
    ],
)
def test_what_is_not_a_vector_is_refused(broken: object):
    with pytest.raises((ValueError, TypeError)):
        packed(broken)
