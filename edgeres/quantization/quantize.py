"""FP32 ONNX and statistics become the Q/DQ graph of a scheme, in seconds and without an image."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from edgeres import onnx_io, store
from edgeres.errors import InputError, UsageError
from edgeres.quantization import ranges, schemes, statistics, weights
from edgeres.quantization.graph import Graph
from edgeres.quantization.half import to_half
from edgeres.quantization.schemes import Scheme
from edgeres.quantization.statistics import Statistics
from edgeres.store import Artifact, Sidecar

METHOD = "mse"
BIAS_LIMIT = 2**30
"""Largest INT32 bias that is written: half of the type, so that the sum of products fits beside it."""


@dataclass(frozen=True)
class Quantizer:
    """Scale and zero point of one activation tensor: q = round(x / scale) + zero_point."""

    scale: np.float32
    zero_point: np.uint8 | np.int8


def quantize(
    model: Path, statistics_path: Path | None, out: Path, *, scheme: str = "portable", method: str = METHOD
) -> Artifact:
    """Write the Q/DQ file of an FP32 ONNX model for one scheme.

    `statistics_path` is what `calibrate` wrote for this very model, None for a scheme without INT8; `scheme` is a name
    of `schemes.SCHEMES`, `method` one of `ranges.METHODS`. The results count the quantized layers and tensors. Raises
    UsageError for an unknown name, InputError where the statistics are of another model, SchemeError where the result
    breaks the scheme's rules.
    """
    store.distinct(out, model)
    chosen = schemes.find(scheme)
    ranges.find(method)
    loaded = onnx_io.load(model)
    onnx_io.description(loaded, model)
    graph = Graph.of(loaded, model)
    made_from = {"model": store.digest(model)}
    found: Statistics = {}
    if chosen.roles:
        if statistics_path is None:
            raise UsageError(f"scheme {scheme} needs statistics of real images; give --data.")
        calibration = store.read_sidecar(statistics_path)
        if calibration and calibration.inputs.get("model") != made_from["model"]:
            raise InputError(f"{statistics_path} was calibrated on another file than {model}; calibrate again.")
        found = statistics.load(statistics_path)
        made_from["statistics"] = store.digest(statistics_path)

    def write(path: Path) -> Mapping[str, Any]:
        quantizers = activations(graph, found, chosen, method)
        made = place(graph, quantizers, found, chosen)
        if chosen.half:
            made = to_half(made)
        chosen.check(made)
        onnx_io.save(made, path)
        layers = sum(node.input[0] in quantizers for node in graph.layers)
        return {"tensors": len(quantizers), "layers": layers}

    parameters = {"scheme": scheme, "method": method} if chosen.roles else {"scheme": scheme}
    sidecar = Sidecar("quantized", made_from, parameters, store.versions("edgeres", "onnx"))
    return store.make(out, sidecar, write)


def activations(graph: Graph, found: Statistics, scheme: Scheme, method: str) -> dict[str, Quantizer]:
    """The quantizer of every tensor that the scheme quantizes; what only moves values shares its source's."""
    made: dict[str, Quantizer] = {}
    for name, role in graph.roles.items():
        if role not in scheme.roles:
            continue
        if name not in found:
            raise InputError(f"the statistics say nothing of {name} in {graph.where}; calibrate again.")
        source = found[graph.source(name)]
        made[name] = quantizer(ranges.find(method)(source, scheme.symmetric), scheme)
    return made


def quantizer(span: ranges.Range, scheme: Scheme) -> Quantizer:
    """The scale and zero point that cover a range (low <= 0 <= high) in the scheme's type."""
    low, high = span
    limits = np.iinfo(scheme.activation)
    tiny = float(np.finfo(np.float32).tiny)
    if scheme.symmetric:
        scale = np.float32(max(-low, high, tiny * limits.max) / limits.max)
        return Quantizer(scale, scheme.activation(0))
    scale = np.float32(max(high - low, tiny * 255) / (int(limits.max) - int(limits.min)))
    point = np.clip(np.rint(limits.min - low / scale), limits.min, limits.max)
    return Quantizer(scale, scheme.activation(point))


def place(graph: Graph, quantizers: Mapping[str, Quantizer], found: Statistics, scheme: Scheme) -> onnx.ModelProto:
    """A new model with a Q/DQ pair behind each given tensor, and the weights of the layers they feed in INT8."""
    writer = _Writer(scheme)
    for value in graph.model.graph.input:
        writer.pair(value.name, quantizers.get(value.name))
    for node in graph.model.graph.node:
        copied = NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [writer.renamed.get(name, name) for name in node.input]
        if node.op_type in ("Conv", "Gemm") and node.input[0] in quantizers:
            writer.layer(node, copied, graph, quantizers[node.input[0]], found[node.input[0]].means)
        else:
            writer.constants.update({name: graph.weights[name] for name in node.input if name in graph.weights})
        writer.nodes.append(copied)
        writer.pair(node.output[0], quantizers.get(node.output[0]))
    made = onnx.ModelProto()
    made.CopyFrom(graph.model)
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(writer.nodes)
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in writer.constants.items())
    return made


class _Writer:
    """The nodes and constants of a Q/DQ graph while it grows."""

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.renamed: dict[str, str] = {}

    def pair(self, name: str, quantizer: Quantizer | None) -> None:
        """Q and DQ behind a tensor; later nodes read the dequantized one."""
        if quantizer is None:
            return
        scale, point = f"{name}.scale", f"{name}.zero_point"
        self.constants[scale], self.constants[point] = np.array(quantizer.scale), np.array(quantizer.zero_point)
        self.nodes += [
            helper.make_node("QuantizeLinear", [name, scale, point], [f"{name}.q"], f"{name}.quantize"),
            helper.make_node("DequantizeLinear", [f"{name}.q", scale, point], [f"{name}.dq"], f"{name}.dequantize"),
        ]
        self.renamed[name] = f"{name}.dq"

    def layer(
        self, node: NodeProto, copied: NodeProto, graph: Graph, source: Quantizer, means: NDArray[np.float64]
    ) -> None:
        """The weights of a layer in INT8, its bias corrected for them."""
        weight = graph.weights[node.input[1]]
        bias = graph.weights[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        scale = weights.scales(weight, self.scheme.paired)
        if self.scheme.int32_bias:
            scale = np.maximum(scale, np.abs(bias) / (source.scale * BIAS_LIMIT)).astype(np.float32)
        quantized = weights.quantize(weight, scale)
        bias = weights.corrected(bias, weight, weights.dequantize(quantized, scale), means)
        copied.input[1] = self._constant(f"{node.name}.weight", quantized, scale)
        name = f"{node.name}.bias"
        if self.scheme.int32_bias:
            product = (scale * source.scale).astype(np.float32)
            whole = np.rint(bias / product.astype(np.float64)).astype(np.int32)
            name = self._constant(name, whole, product)
        else:
            self.constants[name] = bias
        copied.input[2:] = [name]

    def _constant(self, name: str, quantized: NDArray[Any], scale: NDArray[np.float32]) -> str:
        """An integer constant with its DequantizeLinear along axis 0."""
        values, factor, point = f"{name}.q", f"{name}.scale", f"{name}.zero_point"
        self.constants |= {values: quantized, factor: scale, point: np.zeros(len(scale), quantized.dtype)}
        self.nodes.append(
            helper.make_node("DequantizeLinear", [values, factor, point], [f"{name}.dq"], f"{name}.dequantize", axis=0)
        )
        return f"{name}.dq"
