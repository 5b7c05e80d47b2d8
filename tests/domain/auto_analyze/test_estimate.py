"""What is said of a run before it starts."""

import pytest

from parley.domain.auto_analyze.estimate import idle_streams


@pytest.mark.parametrize(("streams", "limit"), [(8, 8), (1, 1), (8, 1000)])
def test_nothing_is_said_where_replies_take_longer_than_a_stream_waits(streams: int, limit: float):
    assert idle_streams(streams, limit) == ""


def test_streams_beyond_the_limit_are_idle():
    assert idle_streams(32, 8) == (
        "with 8 requests a second, some of 32 streams are idle while replies take less than 4 s"
    )
    assert "less than 6 s" in idle_streams(3, 0.5)
