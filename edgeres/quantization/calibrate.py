"""Stream images through the FP32 graph and keep statistics of every tensor that a scheme may quantize."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from edgeres import onnx_io, store
from edgeres.data import ImageSet, batches
from edgeres.errors import InputError
from edgeres.quantization import statistics
from edgeres.quantization.graph import Graph
from edgeres.quantization.statistics import TensorStatistics
from edgeres.store import Artifact, Sidecar

BATCH = 4
"""Images a forward pass; more is not faster on CPUs and holds more activations."""


def calibrate(
    model: Path, images: ImageSet, out: Path, progress: Callable[[int], object] = lambda images: None
) -> Artifact:
    """Write the statistics of an FP32 ONNX model on images; `progress` is told how many more images are done.

    One pass, in memory that does not grow with the number of images. InputError where an image cannot be used or the
    network gives NaN on one.
    """
    store.distinct(out, model)
    loaded = onnx_io.load(model)
    info = onnx_io.description(loaded, model)
    graph = Graph.of(loaded, model)

    def write(path: Path) -> Mapping[str, Any]:
        names = list(graph.roles)  # the input first
        session = _session(loaded, names[1:])
        found: dict[str, TensorStatistics] = {}
        fixed = onnx_io.input_shape(loaded)[0]
        for batch in batches(images, info.preprocess, fixed or BATCH):
            given = onnx_io.padded(batch.images, fixed or len(batch.images))
            outputs = session.run(names[1:], {names[0]: given})
            for name, values in zip(names, [batch.images, *outputs], strict=True):
                try:
                    seen = TensorStatistics.of(values[: len(batch.images)])
                except ValueError:
                    shown = ", ".join(batch.names)
                    raise InputError(f"{model}: {name} is NaN or infinite on {shown}; mend the weights.") from None
                found[name] = found[name] + seen if name in found else seen
            progress(len(batch.images))
        statistics.save(found, path)
        return {"images": len(images)}

    made_from = {"model": store.digest(model), "images": images.digest}
    sidecar = Sidecar("statistics", made_from, {"bins": statistics.BINS}, store.versions("edgeres", "onnxruntime"))
    return store.make(out, sidecar, write)


def _session(model: onnx.ModelProto, outputs: list[str]) -> onnxruntime.InferenceSession:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    watched = onnx.shape_inference.infer_shapes(watched)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
