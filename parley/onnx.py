"""onnxruntime computes vectors of texts, and finds speech and voices in recordings: what holds for all of its users."""

import os

# Official builds report their use to the vendor, and keep an id of the machine for it, unless this variable is set.
NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def disable_telemetry() -> None:
    """Let onnxruntime send nothing. To be called before it is imported, by Parley or by a library."""
    os.environ.setdefault(NO_TELEMETRY, "1")
