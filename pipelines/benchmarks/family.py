"""Every architecture of the table, from a checkpoint to engines: what each step keeps.

    python pipelines/benchmarks/family.py PHOTOS WORK [--only resnet50,seresnet50] [--no-latency]

Each network has seeded random weights and batch norms that have seen the photos. It is exported, which fails unless
ONNX Runtime and torch agree on the `--evaluation` photos, calibrated on `--calibration` others, quantized at level
`fast` for ONNX Runtime and for OpenVINO, held against FP32 on the evaluation photos in the same runtime, and built for
TensorRT for RTX. Random networks lose more to INT8 than trained ones: their classes lie close together. The SQNR is
that of the median image: on a photo unlike those that a random network's batch norms have seen, its activations leave
every range. Prints Markdown, a row as soon as it is known; a step that fails is named in its row.

WORK keeps the ONNX files and every figure (`figures.json`): what is there is not made again. So `--no-latency` may run
first, on a busy machine, and the same command without it, on a quiet one, adds what is missing: the latencies.
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
ROUNDS = 2
COLUMNS = (
    ["architecture", "layers", "parity", "of the largest logit", "top-1 as torch", "MB FP32", "MB INT8"]
    + [f"{name} {what}" for name in ("ORT", "OpenVINO") for what in ("agreement", "SQNR", "p50 FP32", "p50 INT8")]
    + ["RTX engine MB"]
)


def compared(name: str, calibration: ImageSet, evaluation: ImageSet, work: Path, passing: Path) -> dict[str, Any]:
    """The figures of one architecture but its latencies, whose files stay in `work`; all others go to `passing`."""
    weights, statistics, tensorrt = (passing / f"{name}.{end}" for end in ("pth", "stats", "onnx"))
    model, *int8s = files(name, work)
    save(name, 10 if ARCHITECTURES[name].size == 32 else 1000, calibration, weights)
    made = export(weights, model, name, images=evaluation)
    found: dict[str, Any] = {"parity": made.sidecar.results, "fp32": model.stat().st_size}
    calibrate(model, calibration, statistics)
    images = seen(name, evaluation).numpy()
    for (runtime, target), int8 in zip(RUNTIMES.items(), int8s, strict=True):
        quantize(model, statistics, int8, scheme=runtime)
        reference, given = (logits(file, target, images, TOGETHER) for file in (model, int8))
        found[runtime] = {"int8": int8.stat().st_size, **kept(given, reference)}
    quantize(model, statistics, tensorrt, scheme="tensorrt")
    found["engine"] = engines.build(tensorrt, RTX, passing / f"{name}.engine").path.stat().st_size
    return found


def files(name: str, work: Path) -> list[Path]:
    """FP32, and INT8 for each of `RUNTIMES`."""
    return [work / f"{name}.{part}" for part in ("onnx", *(f"{runtime}.onnx" for runtime in RUNTIMES))]


def timed(name: str, work: Path) -> dict[str, list[float]]:
    """Runtime -> p50 of FP32 and of INT8, ms, at batch 1; all four take turns."""
    model, *int8s = files(name, work)
    pairs = zip(RUNTIMES.values(), int8s, strict=True)
    subjects = [Subject(file, target, 1, THREADS) for target, int8 in pairs for file in (model, int8)]
    found = [one.latency.p50 for one in measure(subjects, rounds=ROUNDS)]
    return dict(zip(RUNTIMES, (found[:2], found[2:]), strict=True))


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
    cells = [name, str(layers), f"{parity['largest']:.1e}", f"{parity['relative']:.1e}", f"{parity['agreement']:.0%}"]
    cells += [f"{found['fp32'] / 1e6:.1f}", f"{found['onnxruntime']['int8'] / 1e6:.1f}"]
    for runtime in RUNTIMES:
        one = found[runtime]
        cells += [f"{one['agreement']:.0%}", f"{one['sqnr']:.1f}"]
        cells += [f"{p50:.2f}" for p50 in found["p50"][runtime]] if "p50" in found else ["", ""]
    cells.append(f"{found['engine'] / 1e6:.1f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder, manifest or .npz")
    parser.add_argument("work", type=Path, help="folder of the files and figures")
    parser.add_argument("--only", help="names of architectures, with commas")
    parser.add_argument("--calibration", type=int, default=32, help="images that calibrate [32]")
    parser.add_argument("--evaluation", type=int, default=32, help="images that evaluate [32]")
    parser.add_argument("--no-latency", dest="latency", action="store_false")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    names = options.only.split(",") if options.only else list(ARCHITECTURES)
    calibration = first(options.images, options.calibration)
    evaluation = first(options.images, options.evaluation, skip=options.calibration)
    here, sizes = machine.describe(), architectures()
    print(f"{len(calibration)} images calibrate, {len(evaluation)} evaluate; SQNR of the logits in dB, p50 in ms.")
    print(f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {versions()}\n")
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    figures = options.work / "figures.json"
    raw: dict[str, Any] = json.loads(figures.read_text()) if figures.exists() else {}
    done = 0
    for name in names:
        try:
            if name not in raw:
                with TemporaryDirectory(prefix="edgeres-family-") as passing:
                    raw[name] = compared(name, calibration, evaluation, options.work, Path(passing))
            if options.latency and "p50" not in raw[name]:
                raw[name]["p50"] = timed(name, options.work)
            print(row(name, sizes[name].layers, raw[name]), flush=True)
            done += 1
        except EdgeresError as error:
            print(f"| {name} | {sizes[name].layers} | {error} |", flush=True)
        partial = figures.with_suffix(".part")
        partial.write_text(json.dumps(raw, indent=1) + "\n")
        partial.replace(figures)
    print(f"{done} of {len(names)}", file=sys.stderr)


if __name__ == "__main__":
    main()
