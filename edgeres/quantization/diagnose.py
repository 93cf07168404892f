"""Where an INT8 file loses: the error of each quantized tensor against the FP32 network, on real images."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres import onnx_io, store
from edgeres.canonical import OUTPUT
from edgeres.data import ImageSet, batches
from edgeres.errors import InputError
from edgeres.quantization import place, simulate
from edgeres.quantization.graph import Graph
from edgeres.types import TensorError

OUTLIER = 10.0
"""A channel is called an outlier where its peak is this many times the median channel's: it takes the resolution of a
per-tensor quantizer from all the others."""


def diagnose(model: Path, quantized: Path, images: ImageSet) -> list[TensorError]:
    """The errors of every quantized tensor and of the outputs, the worst first, in exact arithmetic.

    InputError where `quantized` is no Q/DQ file of the FP32 `model`.
    """
    exact, found = onnx_io.verified(model), onnx_io.verified(quantized)
    info = onnx_io.description(exact, model)
    graph = Graph.of(exact, model)
    scales = place.remembered(found, quantized)
    pairs = {node.input[0] for node in found.graph.node if node.op_type == "DequantizeLinear"}
    outputs = [value.name for value in exact.graph.output]
    names = [name for name in graph.roles if f"{name}.q" in pairs]
    floats = [name for name in outputs if name not in names]
    pair = [place.ends(name, outputs) for name in names]
    store.source(quantized)
    sidecar = store.read_sidecar(quantized)
    other = sidecar is not None and sidecar.inputs.get("model") != store.source(model)
    if other or not names or onnx_io.description(found, quantized) != info:
        raise InputError(f"{quantized} is not a Q/DQ file that edgeres made of {model}; quantize again.")
    sums = {name: np.zeros(3) for name in [*names, *floats]}
    peaks: dict[str, NDArray[np.float32]] = {}
    for batch in batches(images, info.preprocess, 4):
        reference = simulate.tensors(exact, batch.images, [*names, *floats])
        both = simulate.tensors(found, batch.images, [*(one for one, _ in pair), *(one for _, one in pair), *floats])
        before, after = [*both[: len(names)], *both[2 * len(names) :]], both[len(names) :]
        for name, wanted, given, rounded in zip([*names, *floats], reference, before, after, strict=True):
            if name in scales:
                if len(scales[name]) != wanted.shape[1]:
                    raise InputError(f"{quantized}: its scales are not of {name}; quantize again.")
                wanted = wanted / scales[name].reshape(1, -1, *(1,) * (wanted.ndim - 2))
            sums[name] += [_power(wanted), _power(rounded - wanted), _power(rounded - given)]
            now = np.abs(wanted).max(axis=(0, *range(2, wanted.ndim)))
            peaks[name] = np.maximum(peaks.get(name, now), now)
    errors = [
        TensorError(
            name,
            graph.roles[name].value if name in names else "logits" if name == OUTPUT else "output",
            position,
            _decibel(signal, noise),
            _decibel(signal, own),
            _outliers(peaks[name]) if name in names else (),
        )
        for position, (name, (signal, noise, own)) in enumerate(sums.items())
    ]
    return sorted(errors, key=lambda error: error.sqnr)


def _power(values: NDArray[np.float32]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _decibel(signal: float, noise: float) -> float:
    """At most 200: what is exact has no ratio."""
    return round(min(10 * float(np.log10(max(signal, 1e-30) / max(noise, 1e-30))), 200.0), 2)


def _outliers(peaks: NDArray[np.float32]) -> tuple[tuple[int, float], ...]:
    median = float(np.median(peaks[peaks > 0])) if (peaks > 0).any() else 0.0
    found = [(int(index), round(float(peaks[index]) / median, 1)) for index in np.argsort(-peaks) if median]
    return tuple((index, ratio) for index, ratio in found if ratio >= OUTLIER)
