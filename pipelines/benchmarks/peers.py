"""Quantize one FP32 classifier with edgeres and with the tools a user would pick instead; measure all of it in one run.

    python pipelines/benchmarks/peers.py MODEL.onnx IMAGES --calibration 64 --json build/peers/r50.json

MODEL.onnx is what `edgeres export` wrote, with a free batch. The images whose file names come first calibrate, the
others evaluate, or all of `--evaluation-data`, where that is given. Every tool quantizes in a process of its own; then
every file runs, on two threads, on ONNX Runtime and on OpenVINO as they are here, and *exact*: each Q and DQ executed
as written (ONNX Runtime without optimisations), which is what integer kernels give that do not saturate. Peers' files
saturate on x86 without VNNI. Accuracy is against FP32 on the same runtime and images; latency is batch 1, by
`edgeres.measure`, all files in turn. Prints Markdown. Needs edgeres[openvino]; a tool that fails or is not installed is
left out and named.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from cost import Cost
from numpy.typing import NDArray
from tools import THREADS, TOOLS, blob, first, output, tool, versions

from edgeres import engines, machine, onnx_io
from edgeres.data import ImageSet, batches
from edgeres.measure import Subject, measure
from edgeres.types import Target

RUNTIMES = {"onnxruntime": Target("onnxruntime", "cpu"), "openvino": Target("openvino", "cpu"), "exact": None}
HEADINGS = {"onnxruntime": "ORT", "openvino": "OpenVINO", "exact": "exact"}
PIXELS = 8 * 224 * 224
"""Of a batch: 8 photos, or as many small images as they have pixels, but no more than 100."""
REFERENCE = "FP32"

Logits = NDArray[np.float32]


def engine(path: Path, target: Target | None) -> Callable[[Logits], Logits]:
    """The call that runs a file on a runtime; exact where the target is None."""
    if target is not None:
        return engines.load(path, target, THREADS).run
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def logits(path: Path, target: Target | None, images: Logits, size: int) -> Logits:
    """Logits (N, classes) of images (N, 3, H, W), `size` a call."""
    call = engine(path, target)
    return np.concatenate([call(images[start : start + size]) for start in range(0, len(images), size)])


def figures(given: Logits, reference: Logits, labels: NDArray[np.int64]) -> dict[str, float]:
    """`top1`, its `drop` and `agreement` as shares; `sqnr`, energy of the FP32 logits over that of the error, in dB."""
    noise = float(np.square(given - reference, dtype=np.float64).sum())
    right = (given.argmax(1) == labels).mean()
    return {
        "top1": float(right),
        "drop": float((reference.argmax(1) == labels).mean() - right),
        "agreement": float((given.argmax(1) == reference.argmax(1)).mean()),
        "sqnr": 10 * float(np.log10(np.square(reference, dtype=np.float64).sum() / max(noise, 1e-30))),
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def quantize(names: list[str], model: Path, images: Path, count: int, folder: Path) -> dict[str, Cost]:
    """What each tool cost; those that failed are left out."""
    costs = {}
    for name in names:
        made = output(name, folder)
        # A copy for each tool: one of them writes into the file that it is given.
        copied = made.with_suffix(".input.onnx")
        shutil.copy(model, copied)
        cost = tool(name, copied, images, count, made)
        say(f"{name}: {cost.failed or f'{cost.seconds:.1f} s, {cost.peak_gb:.2f} GB'}")
        if not cost.failed:
            costs[name] = cost
    return costs


def accuracy(files: dict[str, Path], images: ImageSet, info: onnx_io.ModelInfo) -> dict[str, dict[str, dict[str, Any]]]:
    """`figures` by file and runtime; FP32 stands first. A runtime that refuses a file has none for it."""
    labels = images.indices(info.classes, info.outputs)
    prepared = np.concatenate([batch.images for batch in batches(images, info.preprocess, 64)])
    size = max(1, min(100, PIXELS // info.preprocess.crop**2))
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in files}
    for runtime, target in RUNTIMES.items():
        reference: Logits | None = None
        for name, path in files.items():
            if target is None and path.suffix != ".onnx":
                continue
            try:
                given = logits(path, target, prepared, size)
            except Exception as error:  # every runtime has its own
                if reference is None:
                    raise
                say(f"{name}: {runtime} refuses it: {str(error).splitlines()[0][:200]}")
                continue
            reference = given if reference is None else reference
            found[name][runtime] = figures(given, reference, labels)
            say(f"{name}, {runtime}: {found[name][runtime]}")
    return found


def latency(files: dict[str, Path], found: dict[str, dict[str, dict[str, Any]]], rounds: int) -> None:
    """Add `p50` in ms and the samples to what each runtime ran."""
    cells = [(name, runtime, target) for runtime, target in RUNTIMES.items() if target for name in files]
    cells = [cell for cell in cells if cell[1] in found[cell[0]]]
    subjects = [Subject(files[name], target, 1, THREADS) for name, _, target in cells]
    done = iter(range(1, rounds * len(subjects) + 1))
    measured = measure(subjects, rounds, lambda _: say(f"latency {next(done)}/{rounds * len(subjects)}"))
    for (name, runtime, _), one in zip(cells, measured, strict=True):
        found[name][runtime] |= {"p50": one.latency.p50, "samples": one.latency.samples, "stable": one.latency.stable}


def row(name: str, cost: Cost | None, found: dict[str, dict[str, Any]]) -> str:
    cells = [name, f"{cost.seconds:.1f}" if cost else "", f"{cost.peak_gb:.2f}" if cost else ""]
    for runtime, target in RUNTIMES.items():
        one = found.get(runtime, {})
        shown = [f"{one['top1']:.2%}"] if one else [""]
        shown += (
            [f"{100 * one['drop']:+.2f}", f"{one['agreement']:.2%}", f"{one['sqnr']:.1f}"] if one and cost else [""] * 3
        )
        shown += [f"{one['p50']:.2f}" if "p50" in one else ""] if target else []
        cells += shown
    return f"| {' | '.join(cells)} |"


def table(costs: dict[str, Cost], found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: a row a file; SQNR in dB, p50 in ms, the drop in points."""
    columns = ["tool", "seconds", "peak GB"]
    for runtime, target in RUNTIMES.items():
        named = ["top-1", "drop", "agreement", "SQNR", *(["p50"] if target else [])]
        columns += [f"{HEADINGS[runtime]} {column}" for column in named]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(row(name, costs.get(name), one) for name, one in found.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, nargs="?", help="folder, manifest or .npz: calibrates, the rest evaluates")
    parser.add_argument("--calibration-data", type=Path, help="the same, written out")
    parser.add_argument("--evaluation-data", type=Path, help="evaluate on this set instead of on the rest")
    parser.add_argument("--calibration", type=int, help="images that calibrate [64, of .npz 512]")
    parser.add_argument("--evaluation", type=int, help="images that evaluate [all]")
    parser.add_argument("--out", type=Path, default=Path("build/peers"))
    parser.add_argument("--only", default="", help="names, or beginnings of names, of tools, with commas")
    parser.add_argument("--no-latency", action="store_true")
    parser.add_argument("--rounds", type=int, default=2, help="processes that measure the latency of each file [2]")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    options = parser.parse_args()
    source = options.calibration_data or options.images
    if source is None:
        parser.error("no images: give a folder, or --calibration-data and --evaluation-data")
    count = options.calibration or (512 if source.suffix == ".npz" else 64)
    wanted = [name for name in options.only.split(",") if name]
    names = [name for name in TOOLS if not wanted or name.startswith(tuple(wanted))]
    options.out.mkdir(parents=True, exist_ok=True)

    costs = quantize(names, options.model, source, count, options.out)
    info = onnx_io.info(options.model)
    files = {REFERENCE: options.model} | {name: output(name, options.out) for name in costs}
    files = {name: blob(path, info) if path.suffix == ".xml" else path for name, path in files.items()}
    skip = 0 if options.evaluation_data else count
    evaluation = first(options.evaluation_data or source, options.evaluation, skip)
    found = accuracy(files, evaluation, info)
    here = machine.describe()
    heading = (
        f"{info.arch}, {count} images calibrate, {len(evaluation)} evaluate.\n"
        f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {versions()}"
    )
    raw = {
        "heading": heading,
        "machine": here.model_dump(),
        "costs": {name: asdict(cost) for name, cost in costs.items()},
    }

    def keep() -> None:
        if options.json:
            options.json.write_text(json.dumps({**raw, "figures": found}, indent=1) + "\n")

    keep()
    if not options.no_latency:
        latency(files, found, options.rounds)
        keep()
    print(f"{heading}\n\n{table(costs, found)}", flush=True)


if __name__ == "__main__":
    main()
