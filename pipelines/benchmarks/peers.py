"""Quantize one FP32 classifier with edgeres and with the tools a user would pick instead; measure all of it in one run.

    python pipelines/benchmarks/peers.py MODEL.onnx PHOTOS --calibration 64 --out build/peers [--only NAME,...]

MODEL.onnx is what `edgeres export` wrote, with a free batch; PHOTOS has one folder per class index. The photos whose
file names come first calibrate, the others evaluate. Every tool quantizes in a process of its own; every file then runs
on ONNX Runtime and OpenVINO, batch 1, two threads: logits of all evaluation photos, and latency by `edgeres.measure`,
all files in turn. Prints Markdown. Needs edgeres[openvino]; a peer that is not installed (nncf, nvidia-modelopt[onnx])
is left out and named.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres import engines, machine, onnx_io
from edgeres.data import ImageSet, batches, open_images
from edgeres.measure import Subject, measure
from edgeres.types import Target

RUNTIMES = (Target("onnxruntime", "cpu"), Target("openvino", "cpu"))
THREADS = 2


def split(photos: Path, calibration: int) -> tuple[ImageSet, ImageSet]:
    images = open_images(photos)
    order = sorted(range(len(images)), key=lambda index: images.names[index].rpartition("/")[2])
    return images.take(order[:calibration]), images.take(order[calibration:])


def arrays(model: Path, images: ImageSet) -> Iterator[NDArray[np.float32]]:
    return (batch.images for batch in batches(images, onnx_io.info(model).preprocess, 1))


def edgeres(scheme: str, method: str) -> Callable[[Path, ImageSet, Path], None]:
    def quantize(model: Path, images: ImageSet, out: Path) -> None:
        from edgeres.quantization.calibrate import calibrate
        from edgeres.quantization.quantize import quantize as step

        statistics = out.with_suffix(".stats")
        calibrate(model, images, statistics)
        step(model, statistics, out, scheme=scheme, method=method)

    return quantize


def onnxruntime(method: str, kind: str, reduced: bool = False) -> Callable[[Path, ImageSet, Path], None]:
    def quantize(model: Path, images: ImageSet, out: Path) -> None:
        from onnxruntime import quantization as q

        class Reader(q.CalibrationDataReader):
            def __init__(self) -> None:
                self.images = arrays(model, images)

            def get_next(self) -> dict[str, NDArray[np.float32]] | None:
                found = next(self.images, None)
                return None if found is None else {"input": found}

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
            extra_options={"ActivationSymmetric": kind == "QInt8"},
        )

    return quantize


def nncf(model: Path, images: ImageSet, out: Path) -> None:
    import nncf as tool
    import onnx

    data = tool.Dataset(list(arrays(model, images)), lambda image: {"input": image})
    onnx.save(tool.quantize(onnx.load(model), data, subset_size=len(images)), out)


def modelopt(model: Path, images: ImageSet, out: Path) -> None:
    import modelopt.onnx.quantization as tool

    tool.quantize(
        str(model),
        quantize_mode="int8",
        calibration_data={"input": np.concatenate(list(arrays(model, images)))},
        calibration_method="entropy",
        output_path=str(out),
        calibration_eps=["cpu"],
        calibration_shapes="input:1x3x224x224",
    )


TOOLS: dict[str, Callable[[Path, ImageSet, Path], None]] = {
    "edgeres onnxruntime": edgeres("onnxruntime", "mse"),
    "edgeres openvino": edgeres("openvino", "mse"),
    "edgeres portable": edgeres("portable", "mse"),
    "onnxruntime MinMax U8": onnxruntime("MinMax", "QUInt8"),
    "onnxruntime MinMax U8 reduce_range": onnxruntime("MinMax", "QUInt8", reduced=True),
    "onnxruntime MinMax S8": onnxruntime("MinMax", "QInt8"),
    "onnxruntime Percentile U8": onnxruntime("Percentile", "QUInt8"),
    "onnxruntime Entropy U8": onnxruntime("Entropy", "QUInt8"),
    "NNCF": nncf,
    "ModelOpt entropy": modelopt,
}


def logits(path: Path, target: Target, info: onnx_io.ModelInfo, images: ImageSet) -> NDArray[np.float32]:
    engine = engines.load(path, target, THREADS)
    return np.concatenate([engine.run(batch.images) for batch in batches(images, info.preprocess, 1)])


def row(name: str, cost: dict[str, float], found: list[dict[str, float]]) -> str:
    cells = [name, f"{cost['seconds']:.1f}" if cost else "", f"{cost['peak_gb']:.1f}" if cost else ""]
    for one in found:
        agreement = f"{one['agreement']:.2%}" if cost else ""
        sqnr = f"{one['sqnr']:.1f}" if cost else ""
        cells += [f"{one['top1']:.2%}", agreement, sqnr, f"{one['p50']:.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("build/peers"))
    parser.add_argument("--only", default="")
    parser.add_argument("--quantize", help=argparse.SUPPRESS)
    options = parser.parse_args()
    calibration, evaluation = split(options.photos, options.calibration)
    names = [name for name in options.only.split(",") if name] or list(TOOLS)
    files = {name: options.out / f"{name.replace(' ', '-')}.onnx" for name in TOOLS}
    if options.quantize:
        # A copy for each tool: one of them writes into the file that it is given.
        model = files[options.quantize].with_suffix(".input.onnx")
        shutil.copy(options.model, model)
        start = time.perf_counter()
        TOOLS[options.quantize](model, calibration, files[options.quantize])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": time.perf_counter() - start, "peak_gb": peak}))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    costs: dict[str, dict[str, float]] = {"FP32": {}}
    for name in names:
        files[name].with_suffix(".stats").unlink(missing_ok=True)
        files[name].unlink(missing_ok=True)
        done = subprocess.run([sys.executable, *sys.argv, "--quantize", name], capture_output=True, text=True)
        if done.returncode:
            print(f"left out: {name}: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}", file=sys.stderr)
            continue
        costs[name] = json.loads(done.stdout.splitlines()[-1])
    files["FP32"] = options.model
    info = onnx_io.info(options.model)
    labels = evaluation.indices(info.classes, info.outputs)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in costs}
    for target in RUNTIMES:
        reference = logits(options.model, target, info, evaluation)
        latencies = measure([Subject(files[name], target, 1, THREADS) for name in costs], rounds=2)
        for name, latency in zip(costs, latencies, strict=True):
            given = logits(files[name], target, info, evaluation)
            noise = max(float(np.square(given - reference).sum()), 1e-30)
            found[name].append(
                {
                    "top1": float((given.argmax(1) == labels).mean()),
                    "agreement": float((given.argmax(1) == reference.argmax(1)).mean()),
                    "sqnr": 10 * float(np.log10(np.square(reference).sum() / noise)),
                    "p50": latency.latency.p50,
                }
            )
    here = machine.describe()
    print(f"{info.arch}, {len(calibration)} photos calibrate, {len(evaluation)} evaluate.")
    print(f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {here.packages}\n")
    print("| tool | seconds | peak GB |" + " top-1 | agreement | SQNR dB | p50 ms |" * len(RUNTIMES))
    print("|---|---|---|" + "---|---|---|---|" * len(RUNTIMES))
    for name, cost in costs.items():
        print(row(name, cost, found[name]))


if __name__ == "__main__":
    main()
