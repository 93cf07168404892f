"""Whether edgeres' file is the fastest: in turn with the best file of another tool, and how right both are.

    python pipelines/benchmarks/fastest.py --images photos --calibration 64 \\
        --pair onnxruntime:cpu resnet18.onnx tuned.onnx peer.onnx --pair openvino:cpu resnet18.onnx tuned.blob peer.xml

A pair is a target, the FP32 file, edgeres' engine (as `edgeres tune` leaves it: the settings in its sidecar are used)
and the other tool's file; both run with the runtime's own defaults otherwise, at batch 1. The two take turns in fresh
processes, A B, B A, ...; the ratio is the Hodges-Lehmann median of the rounds' ratios of medians with its 99.7 %
interval (`edgeres.ab`), which takes ten rounds. The images whose names come first calibrated, the others are evaluated
against FP32 on the same runtime. Prints Markdown.
"""

import argparse
import sys
from itertools import islice
from math import log
from pathlib import Path
from statistics import median

import numpy as np
from peers import figures, logits
from tools import blob, first, versions

from edgeres import ab, machine, onnx_io, store
from edgeres.data import batches
from edgeres.measure import Subject
from edgeres.types import Target


def subject(path: Path, target: Target) -> Subject:
    """An engine with the settings that its sidecar names."""
    sidecar = store.read_sidecar(path)
    return Subject(path, target, settings=dict(sidecar.parameters.get("settings", {})) if sidecar else {})


def row(target: Target, ours: Path, theirs: Path, rounds: int) -> str:
    """Which is faster, and by how much."""
    taken: list[tuple[float, float]] = []
    turns = ab.rounds(subject(theirs, target), subject(ours, target), lambda done: None)
    for other, own in islice(turns, rounds):
        print(f"{ours.name} {own:.2f} ms, {theirs.name} {other:.2f} ms", file=sys.stderr, flush=True)
        taken.append((other, own))
    ratio, low, high = (1 + percent / 100 for percent in ab.interval([log(own / other) for other, own in taken]))
    word = "edgeres" if high < 1 else "the other" if low > 1 else "not to be told apart"
    other, own = (median(one) for one in zip(*taken, strict=True))
    return f"{own:.2f} | {other:.2f} | **{ratio:.3f}** ({low:.3f} to {high:.3f}) | {word}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pair", nargs=4, action="append", required=True, metavar=("TARGET", "FP32.onnx", "EDGERES", "OTHER")
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--evaluation", type=int, default=200)
    options = parser.parse_args()

    here = machine.describe()
    print(f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {versions()}.\n")
    accuracies = [f"{what} {one}" for one in ("edgeres", "other") for what in ("top-1", "agreement")]
    columns = ["network, target", "edgeres, ms", "other, ms", "ratio", "faster", "FP32 top-1", *accuracies]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    images = first(options.images, options.evaluation, skip=options.calibration)
    for name, exact, *files in options.pair:
        target, info = Target.parse(name), onnx_io.info(Path(exact))
        ours, theirs = (blob(path, info) if path.suffix == ".xml" else path for path in map(Path, files))
        speed = row(target, ours, theirs, options.rounds)
        prepared = np.concatenate([batch.images for batch in batches(images, info.preprocess, 64)])
        labels = images.indices(info.classes, info.outputs)
        reference = logits(Path(exact), target, prepared, 1)
        found = [figures(logits(path, target, prepared, 1), reference, labels) for path in (ours, theirs)]
        right = [f"{(reference.argmax(1) == labels).mean():.1%}"]
        right += [f"{one[what]:.1%}" for one in found for what in ("top1", "agreement")]
        print(f"| {info.arch}, {name} | {speed} | {' | '.join(right)} |", flush=True)


if __name__ == "__main__":
    main()
