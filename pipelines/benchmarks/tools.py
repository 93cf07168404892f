"""The quantizers that the benchmarks compare, each run in a process of its own, and what such a process costs.

    python pipelines/benchmarks/tools.py NAME MODEL.onnx IMAGES COUNT OUT

runs one of `TOOLS`, or of `FLOORS` and `PARTS`, which only decode and infer, on the first COUNT of IMAGES. All of them
read images lazily, through `edgeres.data`. Peers need nncf and nvidia-modelopt[onnx]. The latter installs
onnxruntime-gpu over the files of onnxruntime: install onnxruntime again after it, or all of them run on another version
than pip lists.
"""

import io
import math
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from cost import Cost, run
from numpy.typing import NDArray

from edgeres import disk, onnx_io, store
from edgeres.data import ImageSet, batches, open_images
from edgeres.pixels import prepare
from edgeres.quantization import quantize as quantizer
from edgeres.quantization import ranges
from edgeres.quantization.schemes import SCHEMES
from edgeres.store import Sidecar

Tool = Callable[[Path, ImageSet, Path], None]
"""(FP32 model, calibration images, file to write)."""
THREADS = 2
STRIDE = 32
"""Photos whose activations onnxruntime's histogram methods hold at once, where they are told to work in strides."""


def first(source: Path, count: int | None, skip: int = 0) -> ImageSet:
    """`count` images of a folder, manifest or .npz file, in the order of their file names without the folder."""
    images = open_images(source)
    order = sorted(range(len(images)), key=lambda index: images.names[index].rpartition("/")[2])
    return images.take(order[skip : None if count is None else skip + count])


def arrays(model: Path, images: ImageSet) -> Iterator[NDArray[np.float32]]:
    """One prepared image (1, 3, H, W) after the other."""
    return (batch.images for batch in batches(images, onnx_io.info(model).preprocess, 1))


def edgeres(scheme: str, **options: str) -> Tool:
    """`options` are those of `edgeres.quantization.quantize.quantize`."""

    def quantize(model: Path, images: ImageSet, out: Path) -> None:
        from edgeres.quantization.calibrate import calibrate

        statistics = out.with_suffix(".stats")
        calibrate(model, images, statistics)
        quantizer.quantize(model, statistics, out, scheme=scheme, images=images, **options)

    return quantize


def onnxruntime(method: str, kind: str, reduced: bool = False, stride: int | None = None) -> Tool:
    def quantize(model: Path, images: ImageSet, out: Path) -> None:
        from onnxruntime import quantization as q

        class Reader(q.CalibrationDataReader):
            def __init__(self) -> None:
                self.set_range(0, len(images))

            def __len__(self) -> int:
                return len(images)

            def set_range(self, start_index: int, end_index: int) -> None:
                self.rest = arrays(model, images.take(range(start_index, end_index)))

            def get_next(self) -> dict[str, NDArray[np.float32]] | None:
                found = next(self.rest, None)
                return None if found is None else {"input": found}

        step = None if stride is None else math.gcd(stride, len(images))  # a stride that does not divide is refused
        prepared = out.with_suffix(".prepared")
        q.shape_inference.quant_pre_process(str(model), str(prepared))
        q.quantize_static(
            str(prepared),
            str(out),
            Reader(),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduced,
            activation_type=q.QuantType[kind],
            weight_type=q.QuantType.QInt8,
            calibrate_method=q.CalibrationMethod[method],
            # CalibMaxIntermediateOutputs does not reach the histogram methods; the stride, whatever its name, does.
            extra_options={"ActivationSymmetric": kind == "QInt8", "CalibStridedMinMax": step},
        )

    return quantize


def _dataset(model: Path, images: ImageSet) -> Any:
    import nncf

    preprocess = onnx_io.info(model).preprocess
    return nncf.Dataset(range(len(images)), lambda index: {"input": prepare(images.image(index), preprocess)[None]})


def nncf_onnx(model: Path, images: ImageSet, out: Path) -> None:
    import nncf
    import onnx

    onnx.save(nncf.quantize(onnx.load(model), _dataset(model, images), subset_size=len(images)), out)


def nncf_openvino(model: Path, images: ImageSet, out: Path) -> None:
    import nncf
    import openvino

    graph = openvino.Core().read_model(model)
    made = nncf.quantize(graph, _dataset(model, images), subset_size=len(images))
    openvino.save_model(made, out.with_suffix(".xml"))


def modelopt(model: Path, images: ImageSet, out: Path) -> None:
    import modelopt.onnx.quantization as tool

    side = onnx_io.info(model).preprocess.crop
    tool.quantize(
        str(model),
        quantize_mode="int8",
        calibration_data={"input": np.concatenate(list(arrays(model, images)))},
        calibration_method="entropy",
        output_path=str(out),
        calibration_eps=["cpu"],
        calibration_shapes=f"input:1x3x{side}x{side}",
    )


def floor_openvino(hint: str) -> Tool:
    def infer(model: Path, images: ImageSet, out: Path) -> None:
        import openvino

        # No precision is asked for: OpenVINO takes bf16 where the CPU has it, and so does calibration.
        config = {"PERFORMANCE_HINT": hint}
        core = openvino.Core()
        graph = core.read_model(model)
        side = onnx_io.info(model).preprocess.crop
        graph.reshape([1, 3, side, side])
        queue = openvino.AsyncInferQueue(core.compile_model(graph, "CPU", config))
        for image in arrays(model, images):
            queue.start_async({0: image})
        queue.wait_all()

    return infer


def floor_onnxruntime(model: Path, images: ImageSet, out: Path) -> None:
    import onnxruntime as runtime

    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for image in arrays(model, images):
        session.run(None, {"input": image})


def decode(model: Path, images: ImageSet, out: Path) -> None:
    for _ in arrays(model, images):
        pass


TOOLS: dict[str, Tool] = {
    **{
        " ".join(["edgeres", name, *given.values()]): edgeres(name, **given)
        for name, scheme in SCHEMES.items()
        if scheme.roles
        for given in ({"level": level} for level in quantizer.EFFORT)
    },
    "onnxruntime MinMax U8": onnxruntime("MinMax", "QUInt8"),
    "onnxruntime MinMax U8 reduce_range": onnxruntime("MinMax", "QUInt8", reduced=True),
    "onnxruntime MinMax S8": onnxruntime("MinMax", "QInt8"),
    "onnxruntime Percentile U8": onnxruntime("Percentile", "QUInt8"),
    "onnxruntime Entropy U8": onnxruntime("Entropy", "QUInt8"),
    "NNCF": nncf_onnx,
    "NNCF from OpenVINO": nncf_openvino,
    "ModelOpt entropy": modelopt,
}
"""By the names of the table's rows."""
METHODS: dict[str, Tool] = {f"edgeres {method}": edgeres("openvino", method=method) for method in ranges.METHODS}
"""edgeres at its default level, by range method."""
LEVELS: dict[str, Tool] = {f"edgeres {level}": edgeres("openvino", level=level) for level in quantizer.EFFORT}
"""edgeres with its default range method, by level."""
STRIDES: dict[str, Tool] = {
    "onnxruntime Percentile in strides": onnxruntime("Percentile", "QUInt8", stride=STRIDE),
    "onnxruntime Entropy in strides": onnxruntime("Entropy", "QUInt8", stride=STRIDE),
}
"""onnxruntime's histogram methods in bounded memory."""
FLOORS: dict[str, Tool] = {
    "floor: OpenVINO, throughput": floor_openvino("THROUGHPUT"),
    "floor: OpenVINO, latency": floor_openvino("LATENCY"),
    "floor: ONNX Runtime": floor_onnxruntime,
}
"""Decode and infer FP32, nothing else."""
PARTS: dict[str, Tool] = {"decode alone": decode}
"""What the floors are made of."""


def output(name: str, folder: Path) -> Path:
    """The file that a tool writes."""
    stem = "".join(letter if letter.isalnum() else "-" for letter in name)
    return folder / f"{stem}{'.xml' if name == 'NNCF from OpenVINO' else '.onnx'}"


def blob(path: Path, info: onnx_io.ModelInfo) -> Path:
    """The OpenVINO engine of an .xml file, with the sidecar that `edgeres.engines.load` wants."""
    import openvino

    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
    core = openvino.Core()

    def write(temporary: Path) -> None:
        stream = io.BytesIO()
        core.compile_model(core.read_model(path), "CPU", config).export_model(stream)
        temporary.write_bytes(stream.getvalue())

    parameters = {"target": "openvino:cpu", "model": info.to_json()}
    sidecar = Sidecar("engine", {"model": disk.digest(path)}, parameters)
    return store.make(path.with_suffix(".blob"), sidecar, write).path


def tool(name: str, model: Path, images: Path, count: int, out: Path) -> Cost:
    """Run one of the tools in a process of its own."""
    for stale in (out, out.with_suffix(".stats")):
        stale.unlink(missing_ok=True)
    return run([Path(__file__), name, model, images, str(count), out])


def versions() -> str:
    """What is really imported; what pip lists can differ (see above)."""
    return ", ".join(f"{name} {_version(name)}" for name in ("edgeres", "onnxruntime", "openvino", "nncf", "modelopt"))


def _version(name: str) -> str:
    try:
        return str(getattr(import_module(name), "__version__", None) or store.versions(name)[name])
    except ImportError:
        return "absent"


def main(name: str, model: str, images: str, count: str, out: str) -> None:
    every = {**TOOLS, **METHODS, **LEVELS, **STRIDES, **FLOORS, **PARTS}
    every[name](Path(model), first(Path(images), int(count)), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
