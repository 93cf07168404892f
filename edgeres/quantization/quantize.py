"""FP32 ONNX and statistics become the Q/DQ graph of a scheme."""

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from edgeres import onnx_io, store
from edgeres.data import ImageSet, batches
from edgeres.errors import InputError, UsageError
from edgeres.quantization import dense, grids, place, ranges, reconstruct, schemes, simulate, statistics, weights
from edgeres.quantization.graph import Graph, Role
from edgeres.quantization.half import to_half
from edgeres.quantization.place import Quantizer
from edgeres.quantization.prepare import LEVELS, UNIT, prepare
from edgeres.quantization.schemes import Scheme
from edgeres.quantization.statistics import Calibration, Statistics
from edgeres.store import Artifact, Sidecar
from edgeres.types import Preprocess

METHOD, AUTO = "mse", "auto"
EFFORT: Mapping[str, int] = {"fast": 0, "balanced": 24, "best": 48}
"""Level -> to how many images of 224 x 224 pixels (or as much of smaller ones) the weights are fitted; 0 rounds each
weight by itself, which needs no images."""
BEST = (1.0, 10.0, 100.0)
"""`reconstruct` with these stiffnesses is what "best" tries; it keeps the fit with the smallest error of the logits."""
PIXELS = 224 * 224
AUTO_IMAGES = 16
"""Images of 224 x 224 pixels (or as much of smaller ones) on which range methods and fits are compared."""


def find_options(method: str, level: str) -> None:
    """UsageError where there is no such range method or level."""
    if method not in (*ranges.METHODS, AUTO):
        raise UsageError(f"there is no range method {method!r}; there are {', '.join(ranges.METHODS)} and {AUTO}.")
    if level not in EFFORT:
        raise UsageError(f"there is no level {level!r}; there are {', '.join(EFFORT)}.")


def quantize(
    model: Path,
    statistics_path: Path | None,
    out: Path,
    *,
    scheme: str = schemes.DEFAULT,
    method: str = METHOD,
    level: str = "fast",
    images: ImageSet | None = None,
    keep: Collection[str] = (),
    progress: Callable[[int], object] = lambda layers: None,
) -> Artifact:
    """Write the Q/DQ file of an FP32 ONNX model for one scheme.

    `statistics_path` is what `calibrate` wrote for this very model, None for a scheme without INT8; `scheme` is a name
    of `schemes.SCHEMES`, `method` one of `ranges.METHODS` or "auto": the one with the smallest error of the logits on
    some of the images; `level` one of `EFFORT`. All levels but "fast", and "auto", need `images`. `keep`
    names layers that stay in float. `progress` is told of each layer that is fitted. The results count the quantized
    layers and tensors. Raises UsageError for an unknown name and for missing images, InputError where the statistics
    are of another model, SchemeError where the result breaks the scheme's rules.
    """
    store.distinct(out, model)
    chosen = schemes.find(scheme)
    find_options(method, level)
    loaded = onnx_io.load(model)
    preprocess = onnx_io.description(loaded, model).preprocess
    graph = Graph.of(loaded, model)
    names = {layer.name for layer in prepare(graph, {}, preprocess, not chosen.half).layers} if keep else set[str]()
    del loaded, graph
    made_from = {"model": store.source(model)}
    parameters: dict[str, Any] = {"scheme": chosen.name}
    calibration, calibrated = Calibration({}, {}), set[str]()
    if chosen.roles:
        needed = EFFORT[level]
        if statistics_path is None:
            raise UsageError(f"scheme {scheme} needs statistics of real images; give --data, or --stats.")
        if (needed or method == AUTO) and images is None:
            raise UsageError(
                f"level {level} with method {method} needs images; "
                + ("give --data." if method == AUTO else "give --data, or --level fast.")
            )
        sidecar = store.read_sidecar(statistics_path)
        if sidecar and sidecar.kind != "statistics":
            raise InputError(f"{statistics_path} holds no statistics; give the .stats file of `edgeres calibrate`.")
        if sidecar and sidecar.inputs.get("model") != made_from["model"]:
            raise InputError(f"{statistics_path} was calibrated on another file than {model}; calibrate again.")
        if unknown := sorted(set(keep) - names):
            raise UsageError(f"{model} has no layer {unknown[0]}; `edgeres inspect` lists them.")
        calibration = statistics.load(statistics_path)
        made_from["statistics"] = store.source(statistics_path)
        calibrated.update(store.calibration(statistics_path))
        parameters |= {"method": method, "level": level}
        if keep:
            parameters["keep"] = sorted(keep)
        if images is not None and (needed or method == AUTO):
            made_from["images"] = images.digest
            calibrated.update(images.contents)

    def write(path: Path) -> Mapping[str, Any]:
        graph = Graph.of(onnx_io.load(model), model)
        prepared = prepare(graph, calibration.scales, preprocess, not chosen.half) if chosen.roles else graph
        del graph
        onnx_io.release()
        quantizer = _Quantization(prepared, calibration.tensors, chosen, frozenset(keep), images, preprocess)
        used, results = quantizer.method(method) if chosen.roles else (method, {})
        quantizers = activations(prepared, calibration.tensors, chosen, used, keep)
        made = place.place(prepared, quantizers, quantizer.layers(quantizers, level, progress), chosen)
        place.remember(made, calibration.scales)
        if chosen.half:
            made = to_half(made)
        chosen.check(made)
        onnx_io.save(made, path)
        layers = sum(quantizer.int8(node, quantizers) for node in prepared.layers)
        return {"tensors": len(quantizers), "layers": layers, **results}

    versions = store.versions("edgeres", "numpy", "onnx", "onnxruntime")
    sidecar = Sidecar("quantized", made_from, parameters, versions, calibration=sorted(calibrated))
    return store.make(out, sidecar, write)


def activations(
    graph: Graph, found: Statistics, scheme: Scheme, method: str, keep: Collection[str] = ()
) -> dict[str, Quantizer]:
    """The quantizer of every tensor that the scheme quantizes; what only moves values shares its source's.

    Layers of `keep` are in float: a tensor that only they read, or that stands between them, has none.
    """
    made: dict[str, Quantizer] = {}
    for name, role in graph.roles.items():
        readers = graph.consumers.get(name, [])
        float_only = (readers and all(reader.name in keep for reader in readers)) or (
            keep and all(layer.name in keep for layer in graph.neighbours(name))
        )
        if role not in scheme.roles or float_only:
            continue
        if name not in found:
            raise InputError(f"the statistics say nothing of {name} in {graph.where}; calibrate again.")
        if name == LEVELS:
            made[name] = Quantizer(np.float32(1 / UNIT), scheme.activation(0 if scheme.activation is np.int8 else 128))
        else:
            # The largest values of an output are what it is read for: none is clipped.
            used = "minmax" if role is Role.OUTPUT else method
            span = ranges.find(used)(found[graph.source(name)], scheme.symmetric)
            made[name] = quantizer(span, scheme)
    return grids.tied(graph, made)


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


def alone(graph: Graph, node: NodeProto, found: Statistics, scheme: Scheme) -> weights.Layer:
    """A layer in INT8 by its own weights: each rounded to the nearest, the bias corrected by the means of its input."""
    weight = graph.weights[node.input[1]]
    bias = graph.weights[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
    scale = weights.scales(weight, scheme.paired)
    quantized = weights.quantize(weight, scale)
    used = weights.dequantize(quantized, scale)
    return weights.Layer(quantized, scale, weights.corrected(bias, weight, used, found[node.input[0]].means))


class _Quantization:
    """What every choice of one quantization shares."""

    def __init__(
        self,
        graph: Graph,
        found: Statistics,
        scheme: Scheme,
        keep: frozenset[str],
        images: ImageSet | None,
        preprocess: Preprocess | None,
    ) -> None:
        self.graph, self.found, self.scheme, self.keep = graph, found, scheme, keep
        self.images, self.preprocess = images, preprocess

    def int8(self, node: NodeProto, quantizers: Mapping[str, Quantizer]) -> bool:
        return node.input[0] in quantizers and node.name not in self.keep

    def layers(
        self, quantizers: Mapping[str, Quantizer], level: str, progress: Callable[[int], object] = lambda layers: None
    ) -> dict[str, weights.Layer]:
        """The INT8 layers as a level makes them."""
        mine = [node for node in self.graph.layers if self.int8(node, quantizers)]
        count = EFFORT[level]
        if not count or not mine:
            return {node.name: alone(self.graph, node, self.found, self.scheme) for node in mine}
        names = {node.name for node in mine}
        images = self._decoded(self._fitting, count)
        with dense.one_thread():
            fits = [
                reconstruct.layers(self.graph, images, quantizers, names, self.scheme.paired, stiffness, progress)
                for stiffness in (BEST if level == "best" else [reconstruct.STIFFNESS])
            ]
        return fits[0] if len(fits) == 1 else max(fits, key=lambda layers: self._sqnr(quantizers, layers))

    def _sqnr(self, quantizers: Mapping[str, Quantizer], layers: Mapping[str, weights.Layer]) -> float:
        """Of the outputs, in dB, on some of the images."""
        made = place.place(self.graph, quantizers, layers, self.scheme)
        return simulate.sqnr(self._reference, simulate.outputs(made, self._judges))

    @cached_property
    def _judges(self) -> NDArray[np.float32]:
        """A quarter of the images, or as many as are needed: no weight is fitted to them."""
        assert self.images is not None
        mine = set(self._fitting.names)
        rest = [index for index, name in enumerate(self.images.names) if name not in mine]
        return self._decoded(self.images.take(rest) if rest else self.images, AUTO_IMAGES)

    @cached_property
    def _fitting(self) -> ImageSet:
        assert self.images is not None
        return self.images.draw(max(1, len(self.images) * 3 // 4))

    @cached_property
    def _reference(self) -> list[NDArray[np.float32]]:
        return simulate.outputs(self.graph.model, self._judges)

    def method(self, wanted: str) -> tuple[str, dict[str, Any]]:
        """The range method that is meant, and for "auto" what was measured: SQNR of the logits in dB by method."""
        if wanted != AUTO:
            return wanted, {}
        measured = {}
        for method in ranges.METHODS:
            quantizers = activations(self.graph, self.found, self.scheme, method, self.keep)
            measured[method] = round(self._sqnr(quantizers, self.layers(quantizers, "fast")), 2)
        best = max(measured, key=measured.__getitem__)
        return best, {"method": best, "sqnr": measured}

    def _decoded(self, images: ImageSet, count: int) -> NDArray[np.float32]:
        """`count` images of 224 x 224 pixels, or as much of smaller ones."""
        drawn = images.draw(max(1, count * PIXELS // prod(self.graph.shapes[self.graph.model.graph.input[0].name][2:])))
        return np.concatenate([batch.images for batch in batches(drawn, self.preprocess, 8)])
