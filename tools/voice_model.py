"""Makes `parley/voices/model.onnx` from the wheel of Resemblyzer 0.1.4 (Apache-2.0), without PyTorch.

    pip download --no-deps resemblyzer==0.1.4 && pip install onnx
    python tools/voice_model.py Resemblyzer-0.1.4-py3-none-any.whl

The model is an LSTM of three layers and a linear one (Wan et al. 2018, "Generalized end-to-end loss for speaker
verification"). Its weights are stored as half floats: the vectors keep a cosine of 0.99999 with those of the original.
The file of weights is read without running code of it: only the names of tensors and storages are known.
"""

import pickle
import sys
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
from onnx import TensorProto, helper, numpy_helper  # pyright: ignore[reportMissingImports]

TARGET = Path(__file__).resolve().parent.parent / "parley" / "voices" / "model.onnx"
WEIGHTS = "resemblyzer/pretrained.pt"
BANDS, UNITS, LAYERS = 40, 256, 3
# PyTorch has the gates input, forget, cell, output; ONNX has input, output, forget, cell.
GATES = [0, 3, 1, 2]


class Place(NamedTuple):
    """Where a tensor is: the key of its storage, its first number, its sizes."""

    key: str
    offset: int
    sizes: tuple[int, ...]


class Reader(pickle.Unpickler):
    """Reads PyTorch's format of before 1.6. Nothing but tensors in dictionaries is accepted."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda key, offset, sizes, *_: Place(key, offset, sizes)
        if module == "torch" and name.endswith("Storage"):
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is not a tensor")

    def persistent_load(self, pid: Any) -> str:
        return str(pid[2])


def tensors(content: bytes) -> dict[str, Any]:
    """The tensors of the model by their names."""
    file = BytesIO(content)
    *_, saved = [Reader(file).load() for _ in range(4)]  # a magic number, a version, the machine, and the content
    storages = {}
    for key in Reader(file).load():
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(4 * count), np.float32)
    return {
        name: storages[at.key][at.offset : at.offset + int(np.prod(at.sizes))].reshape(at.sizes)
        for name, at in saved["model_state"].items()
    }


def model(weights: dict[str, Any]) -> Any:
    """The graph: bands of mel (steps, windows, bands) to vectors (windows, units)."""
    nodes, stored, given = [], [], "mel"

    def half(name: str, values: Any) -> str:
        stored.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float16), f"{name}_half"))
        nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        return name

    def by_gate(values: Any) -> Any:
        return np.concatenate([np.split(values, 4)[gate] for gate in GATES])

    for layer in range(LAYERS):
        of = {
            part: by_gate(weights[f"lstm.{part}_l{layer}"]) for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        names = [
            half(f"w{layer}", of["weight_ih"][None]),
            half(f"r{layer}", of["weight_hh"][None]),
            half(f"b{layer}", np.concatenate((of["bias_ih"], of["bias_hh"]))[None]),
        ]
        nodes.append(helper.make_node("LSTM", [given, *names], [f"y{layer}", f"h{layer}"], hidden_size=UNITS))
        stored.append(numpy_helper.from_array(np.array([1]), f"axis{layer}"))
        given = f"s{layer}"
        nodes.append(helper.make_node("Squeeze", [f"y{layer}", f"axis{layer}"], [given]))
    stored.append(numpy_helper.from_array(np.array([0]), "first"))
    nodes.append(helper.make_node("Squeeze", [f"h{LAYERS - 1}", "first"], ["last"]))
    linear = [half("linear", weights["linear.weight"]), half("bias", weights["linear.bias"])]
    nodes.append(helper.make_node("Gemm", ["last", *linear], ["raw"], transB=1))
    nodes.append(helper.make_node("Relu", ["raw"], ["vectors"]))
    graph = helper.make_graph(
        nodes,
        "voices",
        [helper.make_tensor_value_info("mel", TensorProto.FLOAT, ["steps", "windows", BANDS])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["windows", UNITS])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="parley")


if __name__ == "__main__":
    with ZipFile(sys.argv[1]) as wheel:
        TARGET.write_bytes(model(tensors(wheel.read(WEIGHTS))).SerializeToString())
