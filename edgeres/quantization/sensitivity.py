"""The fewest, cheapest layers left in float that keep the accuracy."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import onnx_io, store
from edgeres.data import ImageSet, batches
from edgeres.errors import EdgeresError, UsageError
from edgeres.quantization import place, schemes, simulate, statistics
from edgeres.quantization.graph import Graph
from edgeres.quantization.prepare import prepare
from edgeres.quantization.quantize import METHOD, activations, alone, find_options, quantize
from edgeres.store import Artifact

RANKING = 16
"""Images on which layers are ranked."""
PRUNED = 8
"""Up to so many layers in float, each is tried again in INT8."""


@dataclass(frozen=True)
class Found:
    """The file that was written, the layers left in float, and the top-1 drops in points with none and with those."""

    artifact: Artifact
    kept: tuple[str, ...]
    before: float
    after: float


def within(
    model: Path,
    statistics_path: Path,
    out: Path,
    folder: Path,
    *,
    max_drop: float,
    validation: ImageSet,
    scheme: str,
    method: str = METHOD,
    level: str = "fast",
    images: ImageSet | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Found:
    """Write the INT8 file whose top-1 on labelled `validation` images is at most `max_drop` points below FP32's.

    Layers are ranked by the error that each alone gives to the logits; the shortest part of the ranking that keeps
    the bound stays in float, and of it what is not needed goes back to INT8, the most expensive first. Everything is
    measured in exact arithmetic (`simulate`). `folder` gets the file with all layers in INT8, `int8.onnx`, and the
    candidates. Raises what `quantize` raises, UsageError for a scheme without INT8, for a model that is no classifier
    and where validation images were calibrated on, EdgeresError where the bound is not held even with all layers in
    float.
    """
    store.distinct(out, model)
    find_options(method, level)
    if not schemes.find(scheme).roles:
        raise UsageError(f"scheme {scheme} has no INT8; give another with --max-drop.")
    calibrated = {*store.calibration(statistics_path), *(images.contents if images else ())}
    validation.refuse(calibrated, f"of {statistics_path}")
    loaded = onnx_io.load(model)
    info = onnx_io.description(loaded, model)
    if info.task != "classification":
        raise UsageError(
            f"{model} is for {info.task} and has no top-1 to keep; leave --max-drop out, `edgeres eval` tells the loss."
        )
    labels = validation.indices(info.classes, info.outputs)
    graph = Graph.of(loaded, model)

    def top1(path: Path) -> float:
        found, right = onnx_io.load(path), 0
        for batch in batches(validation, info.preprocess, 64, labels):
            right += int((simulate.logits(found, batch.images).argmax(1) == batch.labels).sum())
        return 100 * right / len(validation)

    def attempt(path: Path, keep: Collection[str]) -> tuple[Artifact, float]:
        made = quantize(
            model, statistics_path, path, scheme=scheme, method=method, level=level, images=images, keep=keep
        )
        drop = reference - top1(path)
        say(f"{len(keep)} layers in float: drop {drop:+.2f} points")
        return made, drop

    def tried(keep: Collection[str]) -> float:
        return attempt(folder / "candidate.onnx", keep)[1]

    reference = top1(model)
    _, before = attempt(folder / "int8.onnx", ())
    kept: list[str] = []
    if before > max_drop:
        ranking = _ranking(graph, statistics_path, scheme, method, validation, info.preprocess, say)
        low, high = 0, len(ranking)  # more than `low` are needed; `high` are enough, or nothing is
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if tried(ranking[:middle]) <= max_drop else (middle, high)
        kept = ranking[:high]
        if high == len(ranking) and (drop := tried(kept)) > max_drop:
            raise EdgeresError(
                f"{model} loses {drop:.2f} points in scheme {scheme} even with all its layers in float; "
                "give a larger --max-drop or another scheme."
            )
        if len(kept) <= PRUNED:
            costs = macs(prepare(graph, {}, info.preprocess, depthwise=True))
            for name in sorted(kept, key=lambda name: -costs[name]):
                rest = [other for other in kept if other != name]
                if rest and tried(rest) <= max_drop:
                    kept = rest
    artifact, after = attempt(out, kept)
    return Found(artifact, tuple(kept), before, after)


def macs(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates of each layer for one image."""
    return {
        node.name: int(graph.weights[node.input[1]].size * np.prod(graph.shapes[node.output[0]][2:]))
        for node in graph.layers
    }


def _ranking(
    graph: Graph,
    statistics_path: Path,
    scheme: str,
    method: str,
    validation: ImageSet,
    preprocess: Any,
    say: Callable[[str], object],
) -> list[str]:
    """All layers, the one that alone gives the logits the largest error first."""
    calibration = statistics.load(statistics_path)
    chosen = schemes.find(scheme)
    prepared = prepare(graph, calibration.scales, preprocess, not chosen.half)
    quantizers = activations(prepared, calibration.tensors, chosen, METHOD if method == "auto" else method)
    images: NDArray[np.float32] = np.concatenate(
        [batch.images for batch in batches(validation.draw(RANKING), preprocess, 8)]
    )
    reference = simulate.logits(prepared.model, images)
    errors: dict[str, float] = {}
    for node in prepared.layers:
        source = node.input[0]
        if source in quantizers:
            layer = alone(prepared, node, calibration.tensors, chosen)
            made = place.place(prepared, {source: quantizers[source]}, {node.name: layer}, chosen)
            errors[node.name] = simulate.sqnr(reference, simulate.logits(made, images))
    ranked = sorted(errors, key=errors.__getitem__)
    say("most sensitive: " + ", ".join(f"{name} {errors[name]:.1f} dB" for name in ranked[:5]))
    return ranked
