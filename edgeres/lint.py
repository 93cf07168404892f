"""What keeps a Q/DQ file from running in INT8 on a target, or from running rightly: from the runtime where it tells,
from the runtime's rules where it does not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from edgeres import machine
from edgeres.backends import RuntimeLayer
from edgeres.qdq import CONVERSIONS, Network, Pair, name
from edgeres.quantization import schemes, weights
from edgeres.types import Target

HALF_OPSET = 19
"""The first opset whose Q/DQ takes float16 scales."""


@dataclass(frozen=True)
class Finding:
    """One node, what is wrong there, what to do next; `evidence` is `runtime` where the built engine shows it and
    `rule` where it is known of the runtime; `refused` where the runtime takes no such file."""

    node: str
    problem: str
    advice: str
    evidence: Literal["runtime", "rule"]
    refused: bool = False


def rules(network: Network, target: Target, best: str) -> Iterator[Finding]:
    """What is known before anything is built; `best` is the scheme for the target."""
    advice = f"quantize with `--scheme {best}`"
    if target.backend == "openvino":
        # Measured on AVX2 without VNNI: a ResNet-20 with 91.7 % of top-1 falls to 39 %.
        problem = "INT8 with a zero point other than 0, which OpenVINO computes wrongly on x86 CPUs without VNNI"
        for node in network.graph.node:
            point = _zero_point(network, node)
            signed = point is not None and point.data_type == TensorProto.INT8 and numpy_helper.to_array(point).any()
            if node.op_type == "QuantizeLinear" and signed:
                yield Finding(name(node), problem, advice, "rule")
    if not target.backend.startswith("tensorrt"):
        return

    def finding(node: NodeProto, problem: str, refused: bool = False) -> Finding:
        return Finding(name(node), problem, advice, "rule", refused)

    quantized = [layer for layer in network.layers if network.is_quantized(layer)]
    if best == "fp16":
        yield from (finding(one, f"{target} has no INT8 kernel for it", refused=True) for one in quantized)
    if quantized and network.opset < HALF_OPSET:
        problem = "Q/DQ of this opset has no float16 scales: what is not INT8 runs in FP32"
        again = f"export with `--opset {HALF_OPSET}` or later, then {advice}"
        yield Finding(f"opset {network.opset}", problem, again, "rule")
    for node in network.graph.node:
        point = _zero_point(network, node)
        if node.op_type in ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"):
            yield finding(node, "TensorRT reads Q/DQ, not ONNX's integer operators", refused=True)
        elif node.op_type == "DequantizeLinear" and _kind(network, node) == TensorProto.INT32:
            yield finding(node, "an INT32 bias is dequantized; TensorRT takes float biases alone", refused=True)
        elif node.op_type == "QuantizeLinear" and (point is None or point.data_type == TensorProto.UINT8):
            yield finding(node, "UINT8; TensorRT knows INT8 with zero point 0 alone", refused=True)
        elif node.op_type == "QuantizeLinear" and point is not None and numpy_helper.to_array(point).any():
            yield finding(node, "the zero point is not 0; TensorRT knows symmetric INT8 alone", refused=True)
    for pair in network.pairs:
        source = network.source(pair.tensor)
        if source is None or source.op_type != "Conv":
            continue
        readers = [reader for one in pair.dequantize for reader in network.consumers.get(one.output[0], [])]
        if readers and all(reader.op_type == "Relu" for reader in readers):
            yield finding(pair.quantize, "the pair stands between a convolution and its ReLU, which then do not fuse")
        elif any(_is_branch(network, reader, pair) for reader in readers):
            problem = "the pair stands between the last convolution of a block and its residual sum, which do not fuse"
            yield finding(pair.quantize, problem)


def _zero_point(network: Network, node: NodeProto) -> TensorProto | None:
    """The constant zero point of a Q/DQ node; None where it has none."""
    return network.constant(node.input[2]) if len(node.input) > 2 else None


def _kind(network: Network, node: NodeProto) -> int:
    constant = network.constants.get(node.input[0])
    return constant.data_type if constant else 0


def _is_branch(network: Network, node: NodeProto, pair: Pair) -> bool:
    """Whether a pair is on the longer of the two ways into a residual sum."""
    if not network.is_sum(node):
        return False
    mine = {one.output[0] for one in pair.dequantize}
    this = max(network.depth(given) for given in node.input if given in mine)
    return all(network.depth(given) < this for given in node.input if given not in mine)


def evidence(
    network: Network,
    built: Sequence[RuntimeLayer],
    found: Mapping[str, RuntimeLayer],
    target: Target,
    best: str,
    given: str | None,
    features: Sequence[str],
) -> Iterator[Finding]:
    """What the built engine shows; `found` is the runtime's layer of each layer, `given` the file's own scheme,
    `features` are those of the target's CPU."""
    advice = f"quantize with `--scheme {best}`"
    suits = given and given.startswith(f"{best}-") and (not features or schemes.suits(given, features))
    if given == best or suits:
        advice = f"leave it: `--scheme {given}` is the best for {target}, and this is what is left"
    for layer in network.layers:
        run = found.get(name(layer))
        if run and network.is_quantized(layer) and run.precision not in ("int8", "not told"):
            why = _reason(network, layer) if target.backend == "onnxruntime" else ""
            yield Finding(
                name(layer),
                f"runs in {run.precision} though its input and weights are quantized{why}",
                advice,
                "runtime",
            )
    for pair in _standing(network, built):
        yield Finding(
            name(pair.quantize), "left standing: a conversion of its own, fused into no layer", advice, "runtime"
        )


def _reason(network: Network, layer: NodeProto) -> str:
    """Why ONNX Runtime left a quantized layer in float, where its rule is known."""
    (tensor,) = layer.output
    readers = network.consumers.get(tensor, [])
    activated = len(readers) == 1 and readers[0].op_type == "Relu"
    if activated:
        tensor = readers[0].output[0]
        readers = network.consumers.get(tensor, [])
    quantizing = [one for one in readers if one.op_type == "QuantizeLinear"]
    if not quantizing or len(quantizing) < len(readers):
        return ": its output is not quantized, and only DequantizeLinear, layer, QuantizeLinear in a row fuse"
    point = _zero_point(network, quantizing[0])
    if activated and point is not None and point.data_type == TensorProto.INT8:
        return ": a ReLU before a signed QuantizeLinear is not taken over by it"
    return ""


def _standing(network: Network, built: Sequence[RuntimeLayer]) -> list[Pair]:
    """The pairs of which something is left in the engine; at the ends of the network something must be."""
    by_name: dict[str, Pair] = {}
    by_scale: dict[str, list[Pair]] = {}
    for pair in network.pairs:
        by_name.update({key: pair for node in pair.nodes for key in (node.name, *node.output) if key})
        by_scale.setdefault(pair.quantize.input[1], []).append(pair)
    left = set()
    for layer in built:
        if not layer.operators or layer.operators[0] not in CONVERSIONS:
            continue
        kind = layer.operators[0]
        owner = next((by_name[key] for key in layer.origins if key in by_name), None)
        if owner is None:  # the optimiser made it anew: with one pair's scale it is that pair's
            owners = [pair for key in layer.origins for pair in by_scale.get(key, [])]
            owner = owners[0] if len(owners) == 1 else None
        if owner is None or (kind == "QuantizeLinear" and network.begins(owner.tensor)):
            continue
        if kind == "DequantizeLinear" and any(network.ends(one.output[0]) for one in owner.dequantize):
            continue
        left.add(name(owner.quantize))
    return [pair for pair in network.pairs if name(pair.quantize) in left]


def saturation(
    network: Network,
    found: Mapping[str, RuntimeLayer],
    target: Target,
    best: str,
    given: str | None,
    features: Sequence[str],
) -> Iterator[Finding]:
    """Layers whose sums can leave 16 bits on x86 CPUs without VNNI; `features` are those of the target's CPU.

    A file that was made for VNNI is right where there is VNNI.
    """
    has_vnni = machine.has_vnni(features)
    device, _, emulated = target.device.partition("@")
    if target.backend not in ("onnxruntime", "openvino") or device != "cpu":
        return
    if has_vnni and given and schemes.base(given) == "onnxruntime-vnni":
        return
    if "avx2" not in features:
        where = "on x86 CPUs without VNNI"
    elif has_vnni:
        where = "on x86 CPUs without VNNI (this one has it)"
    else:
        where = f"on {f'a {emulated}' if emulated else 'this CPU'}, which has no VNNI"
    for layer in network.layers:
        run, values = found.get(name(layer)), network.int8_weight(layer)
        if run is None or run.reads != "uint8" or values is None:
            continue
        largest = weights.largest_pair(
            weights.by_position(values.astype(np.float32)), weights.pair_step(values.shape)
        ).max()
        if largest > weights.PAIR_LIMIT:
            problem = (
                f"two neighbouring weights sum to more than {weights.PAIR_LIMIT}: U8 x S8 can saturate 16 bits {where}"
            )
            yield Finding(name(layer), problem, f"quantize with `--scheme {best}`", "rule")
