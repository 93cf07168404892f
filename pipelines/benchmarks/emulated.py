"""Hold INT8 files on CPUs that are not here, emulated by QEMU, against exact arithmetic.

    python pipelines/benchmarks/emulated.py MODEL.onnx IMAGES --calibration 64 --evaluation 4 [--cpu haswell ...]

Some CPUs saturate: x86 without VNNI adds two U8 x S8 products in 16 bits, and a file that is right on one machine is
wrong on another. Each file runs on the same images exactly (each Q and DQ executed as written, in floats), on this CPU,
and on each target `onnxruntime:cpu@NAME` that `edgeres targets` can run, or each `--cpu NAME`. Files are onnxruntime's
own and those of all edgeres schemes for ONNX Runtime, made here from MODEL.onnx, or each `--file NAME=FILE`. Prints
Markdown: signal-to-noise ratio and top-1 agreement of the logits, of the exact ones against FP32, of all others against
the exact ones. emulated.md says how to read them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tools import THREADS, arrays, edgeres, first, onnxruntime, output

from edgeres import backends, engines, machine, onnx_io
from edgeres.data import ImageSet
from edgeres.quantization import simulate
from edgeres.quantization.schemes import SCHEMES
from edgeres.types import Target

HERE = Target("onnxruntime", "cpu")
TOOLS = {
    "onnxruntime MinMax U8": onnxruntime("MinMax", "QUInt8"),
    "onnxruntime MinMax S8": onnxruntime("MinMax", "QInt8"),
    **{f"edgeres {name}": edgeres(name) for name in SCHEMES if name.startswith("onnxruntime")},
}
"""onnxruntime's files have full-range weights."""

Logits = NDArray[np.float32]


def quantized(model: Path, images: ImageSet, folder: Path) -> dict[str, Path]:
    """One new file per tool."""
    files = {name: output(name, folder) for name in TOOLS}
    for name, path in files.items():
        for stale in (path, path.with_suffix(".stats")):
            stale.unlink(missing_ok=True)
        TOOLS[name](model, images, path)
    return files


def logits(file: Path, target: Target, images: NDArray[np.float32]) -> Logits:
    """As a user gets them there."""
    engine = engines.load(file, target, THREADS)
    return np.concatenate([engine.run(image[None]) for image in images])


def chosen(names: list[str]) -> list[Target]:
    """The emulated targets of the given names, or all that run here."""
    every = [one.target for one in backends.find(HERE).available() if one.runs and one.target.emulated]
    return [Target(HERE.backend, f"cpu@{name}") for name in names] or every


def likeness(given: Logits, exact: Logits) -> str:
    """Signal-to-noise ratio, and the share of images with the same top-1."""
    noise = float(np.square(given - exact).sum())
    ratio = f"{10 * np.log10(np.square(exact).sum() / noise):.1f} dB" if noise else "identical"
    return f"{ratio}, {(given.argmax(1) == exact.argmax(1)).mean():.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--calibration", type=int, default=64, help="images that calibrate")
    parser.add_argument("--evaluation", type=int, default=16, help="images that evaluate: the next ones, or the first")
    parser.add_argument("--evaluation-data", type=Path, help="of these")
    parser.add_argument("--cpu", action="append", default=[], metavar="NAME")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--out", type=Path, default=Path("build/emulated"))
    options = parser.parse_args()
    targets = [HERE, *chosen(options.cpu)]
    # Whether each can run shows now, not after minutes.
    properties = {target: engines.load(options.model, target, THREADS).properties for target in targets}
    options.out.mkdir(parents=True, exist_ok=True)
    skip = 0 if options.evaluation_data else options.calibration
    evaluation = first(options.evaluation_data or options.images, options.evaluation, skip)
    images = np.concatenate(list(arrays(options.model, evaluation)))

    files = {name: Path(path) for name, _, path in (one.partition("=") for one in options.file)}
    files = files or quantized(options.model, first(options.images, options.calibration), options.out)
    reference = simulate.logits(onnx_io.load(options.model), images)
    exact = {name: simulate.logits(onnx_io.load(path), images) for name, path in files.items()}
    cells: dict[str, list[str]] = {name: [] for name in files}
    for target in targets:
        print(target, file=sys.stderr)
        for name, path in files.items():
            cells[name].append(likeness(logits(path, target, images), exact[name]))

    here, info = machine.describe(), onnx_io.info(options.model)
    print(f"{info.arch}, {options.calibration} images calibrate, {len(evaluation)} evaluate.\n")
    print(f"edgeres {here.packages['edgeres']} on {here.cpu}, {here.cores} cores, {' '.join(here.features)};")
    print(", ".join(f"{target.device} onnxruntime {found['version']}" for target, found in properties.items()) + ".")
    print(f"\n| file | exact | {' | '.join(target.device for target in targets)} |")
    print("|---" * (2 + len(targets)) + "|")
    for name, row in cells.items():
        print(f"| {' | '.join([name, likeness(exact[name], reference), *row])} |")


if __name__ == "__main__":
    main()
