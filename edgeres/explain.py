"""What INT8 does inside the engines of a run: the layers as their runtime computes them, the error of each tensor.

Both are kept as artifacts, so that a second run does not find them again.
"""

import json
from pathlib import Path

from edgeres import disk, engines, machine, store
from edgeres.data import ImageSet
from edgeres.errors import MissingRuntime
from edgeres.inspect import inspect
from edgeres.quantization.diagnose import diagnose
from edgeres.schema import LayerError, LayerPrecision
from edgeres.store import Artifact, Sidecar
from edgeres.types import Target

IMAGES = 8
"""How many images the errors are found on."""


def layers(engine: Path, source: Path, target: Target, out: Path) -> Artifact:
    """What a built engine computes in which precision, joined with the ONNX file `source` that it was built from.

    Raises what `edgeres.inspect.inspect` raises.
    """

    def write(path: Path) -> None:
        try:
            found = inspect(engine, target, source)
        except MissingRuntime:  # TensorRT for RTX shows an engine on a GPU alone, but tells what it compiles anywhere
            found = inspect(source, target)
        kernels = [f"in {layer.within}" if layer.within else layer.kernel for layer in found.layers]
        told = [
            LayerPrecision(
                name=layer.name,
                precision=layer.precision,
                kernel=kernel,
                macs=layer.macs,
                weight_bytes=layer.weight_bytes,
            )
            for layer, kernel in zip(found.layers, kernels, strict=True)
        ]
        path.write_text(json.dumps([layer.model_dump() for layer in told], indent=2), encoding="utf-8")

    made_from = {"engine": disk.digest(engine), "model": disk.digest(source)}
    parameters = {"target": str(target), "machine": machine.describe().identity}
    packages = store.versions("edgeres", *engines.packages(target))
    return store.make(out, Sidecar("layers", made_from, parameters, packages), write)


def errors(model: Path, quantized: Path, images: ImageSet, out: Path) -> Artifact:
    """The SQNR of each quantized tensor against FP32, in the order of the network, on up to IMAGES of `images`.

    Raises what `edgeres.quantization.diagnose.diagnose` raises.
    """
    some = images.draw(IMAGES)

    def write(path: Path) -> None:
        found = sorted(diagnose(model, quantized, some), key=lambda error: error.position)
        told = [LayerError(name=error.name, role=error.role, sqnr_db=error.sqnr) for error in found]
        path.write_text(json.dumps([error.model_dump() for error in told], indent=2), encoding="utf-8")

    made_from = {"model": disk.digest(model), "quantized": disk.digest(quantized), "images": some.digest}
    return store.make(out, Sidecar("errors", made_from, {}, store.versions("edgeres", "onnxruntime", "numpy")), write)
