"""Hold INT8 files on CPUs that are not here, emulated by QEMU, against exact arithmetic.

    python pipelines/benchmarks/emulated.py MODEL.onnx IMAGES --calibration 64 --evaluation 16 \\
        --cpu "x86-64 without VNNI=qemu-x86_64 -cpu Haswell .venv/bin/python"

Some CPUs saturate: x86 without VNNI adds two U8 x S8 products in 16 bits, and a file that is right on one machine is
wrong on another. Each file runs on the same images exactly (each Q and DQ executed as written, in floats), on this CPU,
and once per `--cpu NAME=COMMAND`, a Python with numpy and onnxruntime, whose real kernels for that CPU then run. Files
are onnxruntime's own and those of all edgeres schemes for ONNX Runtime, made here from MODEL.onnx, or each
`--file NAME=FILE`. Prints Markdown: signal-to-noise ratio and top-1 agreement of the logits, of the exact ones against
FP32, of all others against the exact ones. emulated.md says how to read them, and how to get the interpreters.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tools import arrays, edgeres, first, onnxruntime, output

from edgeres import machine, onnx_io
from edgeres.data import ImageSet
from edgeres.quantization.schemes import SCHEMES

RUNNER = Path(__file__).with_name("logits.py")
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


def run(python: list[str], level: str, images: Path, files: list[Path]) -> tuple[str, list[Logits]]:
    """What an interpreter says it is, and its logits of each file."""
    out = images.with_name("logits.npz")
    command = [*python, str(RUNNER), level, str(images), str(out), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(python)}: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    with np.load(out) as found:
        return done.stdout.strip().splitlines()[-1], [found[name] for name in found.files]


def likeness(given: Logits, exact: Logits) -> str:
    """Signal-to-noise ratio, and the share of images with the same top-1."""
    noise = float(np.square(given - exact).sum())
    ratio = f"{10 * np.log10(np.square(exact).sum() / noise):.1f} dB" if noise else "identical"
    return f"{ratio}, {(given.argmax(1) == exact.argmax(1)).mean():.1%}"


def pairs(given: list[str]) -> dict[str, str]:
    """NAME=VALUE as a dictionary."""
    return {name: value for name, _, value in (one.partition("=") for one in given)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--calibration", type=int, default=64, help="images that calibrate")
    parser.add_argument("--evaluation", type=int, default=16, help="images that evaluate: the next ones, or the first")
    parser.add_argument("--evaluation-data", type=Path, help="of these")
    parser.add_argument("--cpu", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--out", type=Path, default=Path("build/emulated"))
    options = parser.parse_args()
    pythons = {"this CPU": [sys.executable]} | {name: shlex.split(each) for name, each in pairs(options.cpu).items()}
    options.out.mkdir(parents=True, exist_ok=True)
    skip = 0 if options.evaluation_data else options.calibration
    evaluation = first(options.evaluation_data or options.images, options.evaluation, skip)
    images = options.out / "images.npy"
    np.save(images, np.concatenate(list(arrays(options.model, evaluation))))
    # Whether each interpreter works shows now, not after minutes.
    described = {name: run(python, "exact", images, [])[0] for name, python in pythons.items()}

    files = {name: Path(path) for name, path in pairs(options.file).items()}
    files = files or quantized(options.model, first(options.images, options.calibration), options.out)
    _, (reference, *exact) = run([sys.executable], "exact", images, [options.model, *files.values()])
    found = {}
    for name, python in pythons.items():
        print(name, file=sys.stderr)
        found[name] = run(python, "optimised", images, list(files.values()))[1]

    here, info = machine.describe(), onnx_io.info(options.model)
    print(f"{info.arch}, {options.calibration} images calibrate, {len(evaluation)} evaluate.\n")
    print(f"- edgeres {here.packages['edgeres']} on {here.cpu}, {here.cores} cores, {' '.join(here.features)}")
    print("\n".join(f"- {name}: {said}" for name, said in described.items()))
    print(f"\n| file | exact | {' | '.join(pythons)} |")
    print("|---" * (2 + len(pythons)) + "|")
    for index, (name, right) in enumerate(zip(files, exact, strict=True)):
        cells = [likeness(logits[index], right) for logits in found.values()]
        print(f"| {' | '.join([name, likeness(right, reference), *cells])} |")


if __name__ == "__main__":
    main()
