"""Every architecture of the table, from a checkpoint to engines: what each step keeps.

    python pipelines/benchmarks/family.py PHOTOS [--only resnet50,seresnet50] [--no-latency] [--json FILE]

Each network has seeded random weights and batch norms that have seen the photos. It is exported, which fails unless
ONNX Runtime and torch agree, calibrated on `--calibration` photos, quantized at level `fast` for ONNX Runtime and for
OpenVINO, held against FP32 on `--evaluation` other photos in the same runtime, and built for TensorRT for RTX. Random
networks lose more to INT8 than trained ones: their classes lie close together. The SQNR is that of the median image: on
a photo unlike those that a random network's batch norms have seen, its activations leave every range. Prints Markdown,
a row as soon as it is known; a step that fails is named in its row. What `--json` holds already is not measured again.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from networks import save, seen
from peers import Logits, logits
from tools import THREADS, first, versions

from edgeres import engines, machine
from edgeres.data import ImageSet
from edgeres.errors import EdgeresError
from edgeres.export import architectures, export
from edgeres.measure import Subject, measure
from edgeres.models.architectures import ARCHITECTURES
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.types import Target

RUNTIMES = {name: Target(name, "cpu") for name in ("onnxruntime", "openvino")}
RTX = Target("tensorrt-rtx", "sm86")
TOGETHER = 8
COLUMNS = (
    ["architecture", "layers", "parity", "of the largest logit", "MB FP32", "MB INT8"]
    + [f"{name} {what}" for name in ("ORT", "OpenVINO") for what in ("agreement", "SQNR", "p50 FP32", "p50 INT8")]
    + ["RTX engine MB"]
)


def measured(name: str, calibration: ImageSet, evaluation: ImageSet, folder: Path, latency: bool) -> dict[str, Any]:
    """The figures of one architecture."""
    weights, model, statistics = (folder / f"{name}{suffix}" for suffix in (".pth", ".onnx", ".stats"))
    classes = 10 if ARCHITECTURES[name].size == 32 else 1000
    save(name, classes, calibration, weights)
    found: dict[str, Any] = {"parity": export(weights, model, name).sidecar.results, "fp32": model.stat().st_size}
    weights.unlink()
    calibrate(model, calibration, statistics)
    images = seen(name, evaluation).numpy()
    for runtime, target in RUNTIMES.items():
        int8 = quantize(model, statistics, folder / f"{name}.{runtime}.onnx", scheme=runtime).path
        reference, given = (logits(file, target, images, TOGETHER) for file in (model, int8))
        found[runtime] = {"int8": int8.stat().st_size, **kept(given, reference)}
        if latency:
            both = measure([Subject(file, target, 1, THREADS) for file in (model, int8)], rounds=2)
            found[runtime]["p50"] = [one.latency.p50 for one in both]
    quantize(model, statistics, folder / f"{name}.tensorrt.onnx", scheme="tensorrt")
    engine = engines.build(folder / f"{name}.tensorrt.onnx", RTX, folder / f"{name}.engine")
    found["engine"] = engine.path.stat().st_size
    return found


def kept(given: Logits, reference: Logits) -> dict[str, Any]:
    """`agreement` of the top-1, a share; in dB the SQNR of `each` image, and `sqnr`, the median of these."""
    signal = np.square(reference, dtype=np.float64).sum(1)
    noise = np.square(given - reference, dtype=np.float64).sum(1)
    each = 10 * np.log10(signal / np.maximum(noise, 1e-30))
    agreement = float((given.argmax(1) == reference.argmax(1)).mean())
    return {"agreement": agreement, "sqnr": float(np.median(each)), "each": each.round(1).tolist()}


def row(name: str, layers: int, found: dict[str, Any]) -> str:
    """Markdown."""
    parity = found["parity"]
    cells = [name, str(layers), f"{parity['largest']:.1e}", f"{parity['relative']:.1e}"]
    cells += [f"{found['fp32'] / 1e6:.1f}", f"{found['onnxruntime']['int8'] / 1e6:.1f}"]
    for runtime in RUNTIMES:
        one = found[runtime]
        cells += [f"{one['agreement']:.0%}", f"{one['sqnr']:.1f}"]
        cells += [f"{p50:.1f}" for p50 in one["p50"]] if "p50" in one else ["", ""]
    cells.append(f"{found['engine'] / 1e6:.1f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder, manifest or .npz")
    parser.add_argument("--only", help="names of architectures, with commas")
    parser.add_argument("--calibration", type=int, default=32, help="images that calibrate [32]")
    parser.add_argument("--evaluation", type=int, default=32, help="images that evaluate [32]")
    parser.add_argument("--no-latency", action="store_true")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(ARCHITECTURES)
    calibration = first(options.images, options.calibration)
    evaluation = first(options.images, options.evaluation, skip=options.calibration)
    here, sizes = machine.describe(), architectures()
    print(f"{len(calibration)} images calibrate, {len(evaluation)} evaluate; SQNR of the logits in dB, p50 in ms.")
    print(f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {versions()}\n")
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    raw: dict[str, Any] = {}
    if options.json and options.json.exists():
        raw = json.loads(options.json.read_text())
    for name in names:
        if name in raw:
            print(row(name, sizes[name].layers, raw[name]), flush=True)
            continue
        with TemporaryDirectory(prefix="edgeres-family-") as folder:
            try:
                raw[name] = measured(name, calibration, evaluation, Path(folder), not options.no_latency)
                print(row(name, sizes[name].layers, raw[name]), flush=True)
            except EdgeresError as error:
                print(f"| {name} | {sizes[name].layers} | {error} |", flush=True)
        if options.json:
            options.json.write_text(json.dumps(raw, indent=1) + "\n")
    print(f"{len(raw)} of {len(names)}", file=sys.stderr)


if __name__ == "__main__":
    main()
