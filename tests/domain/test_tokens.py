"""Tokens are counted without a download, by any thread."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tiktoken

from parley.domain import tokens


def test_threads_that_count_first_load_the_vocabulary_once(monkeypatch: pytest.MonkeyPatch):
    """Its place is a variable of the whole process, so that a second load would take it away from the first."""
    real, loads = tiktoken.get_encoding, []

    def get_encoding(name: str) -> Any:
        loads.append(name)
        time.sleep(0.05)
        return real(name)

    monkeypatch.setattr(tiktoken, "get_encoding", get_encoding)
    tokens._loaded.cache_clear()  # pyright: ignore[reportPrivateUsage]
    with ThreadPoolExecutor(4) as threads:
        counts = [*threads.map(tokens.count_tokens, ["a few words"] * 4)]
    assert counts == [3] * 4
    assert loads == [tokens.ENCODING]
