"""What a machine can do at most in a runtime: the arithmetic of a second, and the bytes.

Measured, not looked up: convolutions as ResNets have them, and tensors that are read and written with next to no
arithmetic, each run by the runtime's own engine. The quickest call of the best of them is the peak (Williams, Waterman
and Patterson, 2009, "Roofline: An Insightful Visual Performance Model for Multicore Architectures", CACM 52). Tensors
that fit a cache are moved faster than others, so that there is a bandwidth for each size (Ilic, Pratas and Sousa, 2014,
"Cache-aware Roofline Model").
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgeres import locks, machine, measure
from edgeres.measure.child import Subject
from edgeres.types import Settings, Target

STAGES = ((128, 56), (64, 56), (128, 28), (256, 14), (512, 7))
"""Channels and side of the maps: one that is larger than ResNets have, and the four stages of one."""
SIDES = (128, 256, 512, 1024, 2048)
"""Of the square maps of 4 channels that are moved: 0.5 to 134 MB are read and written."""
BF16 = ("amx_bf16", "avx512_bf16", "bf16")
SIGNED = "asimd"
"""Where INT8 is fastest with signed activations, as ONNX Runtime's kernels of ARM are."""
OPSET, IR = 19, 9


@dataclass(frozen=True)
class Peak:
    """The most multiply-accumulates a second, and the layer that reached them."""

    rate: float
    layer: str


@dataclass(frozen=True)
class Limits:
    """`peaks` by precision (int8, fp32, bf16); `bandwidths` as (bytes read and written in all, bytes a second), the
    smallest first."""

    peaks: Mapping[str, Peak]
    bandwidths: tuple[tuple[int, float], ...]

    def bandwidth(self, moved: int) -> float:
        """The most bytes a second at which so many bytes, or more, were moved."""
        return max([rate for size, rate in self.bandwidths if size >= moved] or [self.bandwidths[-1][1]])


def limits(
    target: Target, threads: int | None = None, progress: Callable[[int], object] = lambda processes: None
) -> Limits:
    """Measure a target, a process for each of `processes`; raises as `measure.profile`."""
    peaks: dict[str, Peak] = {}
    with locks.scratch() as folder:
        path = folder / "network.onnx"
        subject = Subject(path, target, 1, threads)
        for int8, settings in _arithmetics(target):
            macs = convolutions(path, int8)
            for one in measure.profile(replace(subject, settings=settings))[1]:
                names = (name.removesuffix(".relu") for name in one.layer.origins)
                layer = next((name for name in names if name in macs), None)
                # What reorders a convolution's result bears its name, too.
                if layer and "Conv" in one.layer.operators and one.least > 0:
                    peak = Peak(1e3 * macs[layer] / one.least, layer)
                    known = peaks.get(one.layer.precision, peak)
                    peaks[one.layer.precision] = max(known, peak, key=lambda each: each.rate)
            progress(1)
        moved = []
        for side in SIDES:
            _map(path, side)
            most = max(measure.profile(subject)[1], key=lambda one: one.moved)
            moved.append((most.moved, 1e3 * most.moved / most.least))
            progress(1)
    return Limits(peaks, tuple(sorted(moved)))


def processes(target: Target) -> int:
    """How many processes `limits` takes."""
    return len(_arithmetics(target)) + len(SIDES)


def _arithmetics(target: Target) -> list[tuple[bool, Settings]]:
    """What is measured: whether in INT8, and the runtime's options for it."""
    found: list[tuple[bool, Settings]] = [(True, {}), (False, {})]
    if target.backend == "openvino" and any(one in machine.describe().features for one in BF16):
        found.append((False, {"INFERENCE_PRECISION_HINT": "bf16"}))
    return found


def convolutions(path: Path, int8: bool) -> dict[str, int]:
    """Write a chain of convolutions with ReLUs, 3 x 3 and 1 x 1, of all STAGES, each with a Q/DQ pair where `int8`: the
    multiply-accumulates by the name of the weights."""
    random, net, macs = np.random.default_rng(0), _Network(int8), {}
    channels, side = STAGES[0]
    tensor = net.quantized("input")
    for stage, (wide, small) in enumerate(STAGES):
        stride, given = max(1, side // small), channels
        shapes = [(wide, given, 3, stride), (wide, wide, 3, 1), (4 * wide, wide, 1, 1), (wide, 4 * wide, 1, 1)]
        for index, (out, into, kernel, step) in enumerate(shapes):
            name = f"stage {stage + 1}, {kernel} x {kernel}, {into} to {out} channels, {small} x {small} ({index + 1})"
            weight = random.standard_normal((out, into, kernel, kernel), np.float32) * (2 / (into * kernel**2)) ** 0.5
            tensor = net.convolution(tensor, name, weight, step)
            macs[name] = out * into * kernel**2 * small**2
        channels, side = wide, small
    net.write(path, tensor, (1, *STAGES[0], STAGES[0][1]), (1, channels, side, side))
    return macs


def _map(path: Path, side: int) -> None:
    """Write a network that reads and writes 4 maps and compares each value with zero."""
    net = _Network(int8=False)
    net.nodes.append(helper.make_node("Relu", ["input"], ["moved"], "moved"))
    net.write(path, "moved", (1, 4, side, side), (1, 4, side, side))


class _Network:
    """A chain of layers while it grows."""

    def __init__(self, int8: bool) -> None:
        self.int8 = int8
        self.point = np.int8(0) if SIGNED in machine.describe().features else np.uint8(0)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def convolution(self, tensor: str, name: str, weight: NDArray[np.float32], stride: int) -> str:
        """What a convolution with its ReLU gives; the constant of the weights bears `name`."""
        weights = name
        if self.int8:
            scale = np.abs(weight).max(axis=(1, 2, 3)) / 63
            self._constant(name, np.rint(weight / scale[:, None, None, None]).astype(np.int8))
            self._constant(f"{name}.scale", scale.astype(np.float32))
            self._constant(f"{name}.zero", np.zeros(len(scale), np.int8))
            weights = f"{name}.dq"
            given = [name, f"{name}.scale", f"{name}.zero"]
            self.nodes.append(helper.make_node("DequantizeLinear", given, [weights], weights, axis=0))
        else:
            self._constant(name, weight)
        pad, kernel = weight.shape[2] // 2, list(weight.shape[2:])
        sizes: dict[str, Any] = {"kernel_shape": kernel, "strides": [stride] * 2, "pads": [pad] * 4}
        self.nodes.append(helper.make_node("Conv", [tensor, weights], [f"{name}.y"], f"{name}.conv", **sizes))
        self.nodes.append(helper.make_node("Relu", [f"{name}.y"], [f"{name}.relu"], f"{name}.relu"))
        return self.quantized(f"{name}.relu")

    def quantized(self, tensor: str) -> str:
        """What a Q/DQ pair makes of a tensor, the tensor itself where the chain is of floats."""
        if not self.int8:
            return tensor
        names = [f"{tensor}.scale", f"{tensor}.point"]
        self._constant(names[0], np.float32(4 / np.iinfo(self.point.dtype).max))
        self._constant(names[1], self.point)
        self.nodes += [
            helper.make_node("QuantizeLinear", [tensor, *names], [f"{tensor}.q"], f"{tensor}.quantize"),
            helper.make_node("DequantizeLinear", [f"{tensor}.q", *names], [f"{tensor}.dq"], f"{tensor}.dequantize"),
        ]
        return f"{tensor}.dq"

    def _constant(self, name: str, value: NDArray[Any] | np.generic) -> None:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))

    def write(self, path: Path, output: str, taken: tuple[int, ...], given: tuple[int, ...]) -> None:
        inputs, outputs = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
            for name, shape in (("input", taken), (output, given))
        )
        graph = helper.make_graph(self.nodes, "peaks", inputs, outputs, self.constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), path)
