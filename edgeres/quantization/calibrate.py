"""Stream images through the FP32 graph and keep statistics of every tensor that a scheme may quantize.

A few images tell which channels to equalise; all of them then run through the prepared graph, in the fastest runtime
that is installed, one image a pass: the result does not depend on a batch size.
"""

import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeres import backends, locks, onnx_io, store
from edgeres.data import ImageSet, batches
from edgeres.errors import InputError
from edgeres.figures import counted
from edgeres.quantization import equalize, statistics
from edgeres.quantization.graph import Graph
from edgeres.quantization.instrument import Row, instrumented
from edgeres.quantization.prepare import prepare
from edgeres.quantization.statistics import Calibration, TensorStatistics
from edgeres.store import Artifact, Sidecar
from edgeres.types import Preprocess, Target

PROBE = 16
"""Images that decide on equalisation."""
FEW = PROBE
"""Fewer images than this are said to be few."""
DEEP = 300
"""Tensors that are more than OpenVINO should compile reports of: it takes time that grows faster than their number."""
CHUNK = 8
"""Reports that are counted together: numpy is slow on small arrays."""


def gather(
    model: Path,
    scales: equalize.Scales,
    images: ImageSet,
    target: Target,
    progress: Callable[[int], object] = lambda images: None,
) -> dict[str, TensorStatistics]:
    """The statistics of a model, prepared with `scales`, on images; those of parts of them add up to the same."""
    return collect(lambda: _prepared(model, scales), images, _graph(model)[1], target, progress)


Gather = Callable[..., dict[str, TensorStatistics]]
"""What has the arguments of `gather`, and gives the same."""


def calibrate(
    model: Path,
    images: ImageSet,
    out: Path,
    progress: Callable[[int], object] = lambda images: None,
    gather: Gather = gather,
) -> Artifact:
    """Write the statistics of an FP32 ONNX model on images; `progress` is told how many more images are done.

    In memory that does not grow with the number of images; `gather` may share them out. `results` say how many images
    and seconds it took, and in which runtime. InputError where an image cannot be used or the network gives NaN on one.
    """
    store.distinct(out, model)
    graph, preprocess = _graph(model)
    target = _runtime(len(graph.roles))
    del graph

    def write(path: Path) -> Mapping[str, Any]:
        start = time.perf_counter()
        # Graphs are made anew where they are needed: no copy of the weights is held while images run.
        probe = collect(lambda: _graph(model)[0], images.draw(PROBE), preprocess, target, probing=True)
        scales = equalize.scales(_graph(model)[0], probe)
        onnx_io.release()
        middle = time.perf_counter()
        found = gather(model, scales, images, target, progress)
        trusted = equalize.trusted(_graph(model)[0], scales, probe, found) if scales else scales
        if len(trusted) < len(scales):
            found = gather(model, trusted, images, target)
        statistics.save(Calibration(found, trusted), path)
        seconds = {"equalize": middle - start, "collect": time.perf_counter() - middle}
        return {"images": len(images), "runtime": str(target), "seconds": seconds}

    made_from = {"model": store.source(model), "images": images.digest}
    parameters, versions = {"bins": statistics.BINS}, store.versions("edgeres", target.backend)
    sidecar = Sidecar("statistics", made_from, parameters, versions, calibration=images.contents)
    return store.make(out, sidecar, write)


def few(images: int) -> str:
    """What to say of so many images to calibrate with, "" where there are `FEW` or more."""
    if images >= FEW:
        return ""
    return f"{counted(images)} to calibrate with: take {FEW} or more, or others may not fit into the ranges."


def _prepared(model: Path, scales: equalize.Scales) -> Graph:
    """With batch norms as convolutions, whose tensors are those of either spelling and more."""
    graph, preprocess = _graph(model)
    return prepare(graph, scales, preprocess, depthwise=True)


def _graph(model: Path) -> tuple[Graph, Preprocess | None]:
    loaded = onnx_io.load(model)
    preprocess = onnx_io.description(loaded, model).preprocess
    return Graph.of(loaded, model), preprocess


def collect(
    graph: Callable[[], Graph],
    images: ImageSet,
    preprocess: Preprocess | None,
    target: Target,
    progress: Callable[[int], object] = lambda images: None,
    probing: bool = False,
) -> dict[str, TensorStatistics]:
    """The statistics of every tensor that has a role in the graph.

    `probing` tells how far each ReLU cut (see `instrument`), and is in FP32 everywhere: a few images, on which much
    depends, cost little, and bfloat16 kernels make zeros of NaN. One at a time, as FP32 weights take most memory.
    """
    found: dict[str, TensorStatistics] = {}
    with locks.scratch() as folder:
        path = folder / "instrumented.onnx"
        where, rows, size = _write(graph(), probing, path)
        onnx_io.release()
        # Not by `engines`: this graph is our own, and nobody signs it.
        engine = backends.find(target).load(path, target, streams=int(probing), bf16=not probing)
        given = (onnx_io.padded(batch.images, size) for batch in batches(images, preprocess, size))
        reports = islice((report for output in engine.stream(given) for report in output), len(images))
        for first in range(0, len(images), CHUNK):
            chunk = np.stack(list(islice(reports, CHUNK)))
            for name, row in rows.items():
                try:
                    seen = row.statistics(chunk)
                    whole = found[name] + seen if name in found else seen
                except ValueError as error:
                    shown = ", ".join(images.names[first : first + CHUNK])
                    raise InputError(f"{where}: {name} is {error} on {shown}; mend the weights.") from None
                found[name] = whole
            progress(len(chunk))
    return found


def _write(graph: Graph, depths: bool, path: Path) -> tuple[Path, Mapping[str, Row], int]:
    """Write the instrumented graph: where it came from, where its rows tell of which tensor, and its batch."""
    model, rows = instrumented(graph, depths)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", convert_attribute=False)
    return graph.where, rows, onnx_io.input_shape(model)[0] or 1


def _runtime(tensors: int) -> Target:
    """The fastest runtime that is installed for a graph that reports on so many tensors."""
    openvino = Target("openvino", "cpu")
    runs = tensors <= DEEP and any(one.target == openvino and one.runs for one in backends.find(openvino).available())
    return openvino if runs else Target("onnxruntime", "cpu")
