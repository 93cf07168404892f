"""From the camera's bytes to logits: an engine that takes them, beside NumPy's normalisation and a float engine.

    python pipelines/benchmarks/frames.py BYTES --target onnxruntime:cpu --floats FLOATS --peer NAME=FILE ...

BYTES is an engine of `edgeres build --input u8-nhwc`, FLOATS the one without it of the same file, FILE what another
tool made (.onnx, or .xml of OpenVINO). All but BYTES get the frame, uint8 (224, 224, 3), by way of NumPy, as most code
does it: scaled, normalised, transposed, contiguous, in float32. Each row is measured in a fresh process, the rows in
turn, in every round; figures are medians over rounds of the medians of calls. Prints Markdown.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgeres import engines, machine, onnx_io, store
from edgeres.measure.child import warm_up
from edgeres.types import Preprocess, Target

Frame = NDArray[np.uint8]
SECONDS = 2.0


def prepared(frame: Frame, preprocess: Preprocess) -> NDArray[np.float32]:
    """What people write who take care that NumPy stays in float32."""
    mean, std = (np.array(part, np.float32) for part in (preprocess.mean, preprocess.std))
    image = frame.astype(np.float32) / np.float32(255)
    image = (image - mean) / std
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]


def session(path: Path, target: Target, threads: int) -> Callable[[NDArray[np.float32]], object]:
    """A peer's file in its runtime, used directly."""
    if target.backend == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        loaded = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = loaded.get_inputs()[0].name
        return lambda image: loaded.run(None, {name: image})
    import openvino

    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(path, "CPU", config).create_infer_request()
    return lambda image: request.infer({0: image}, share_inputs=True)


def row(kind: str, path: Path, target: Target, threads: int, model: Path) -> float:
    """Milliseconds from frame to logits, the median of the calls in this process."""
    preprocess = onnx_io.info(model).preprocess
    frame = np.random.default_rng(0).integers(0, 256, (preprocess.crop, preprocess.crop, 3), np.uint8)
    if kind == "bytes":
        engine = engines.load(path, target, threads)

        def call() -> object:
            return engine.run(frame[None])
    else:
        run = engines.load(path, target, threads).run if kind == "floats" else session(path, target, threads)

        def call() -> object:
            return run(prepared(frame, preprocess))

    warm_up(call)
    samples, end = [], time.monotonic() + SECONDS
    while time.monotonic() < end:
        start = time.perf_counter_ns()
        call()
        samples.append((time.perf_counter_ns() - start) / 1e6)
    return median(samples)


def measured(rows: dict[str, tuple[str, Path]], options: argparse.Namespace) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(options.rounds):
        for name in list(rows)[:: -1 if turn % 2 else 1]:
            kind, path = rows[name]
            asked = [kind, str(path), options.target, str(options.threads), str(options.engine)]
            done = subprocess.run([sys.executable, __file__, "--row", *asked], stdout=subprocess.PIPE, check=True)
            found[name].append(float(done.stdout))
            print(f"round {turn + 1}, {name}: {found[name][-1]:.2f} ms", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, list[float]], rows: dict[str, tuple[str, Path]]) -> str:
    """Ratios are of the same round; the interval is from the least of the rounds to the largest."""
    base, *_ = found.values()
    lines = ["| from frame to logits | ms | times the first | MB |", "|---|---|---|---|"]
    for name, times in found.items():
        ratios = sorted(one / first for one, first in zip(times, base, strict=True))
        ratio = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        size = sum(part.stat().st_size for part in {rows[name][1], rows[name][1].with_suffix(".bin")} if part.exists())
        lines.append(f"| {name} | {median(times):.2f} | {ratio} | {size / 1e6:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--floats", type=Path, required=True)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    options = parser.parse_args()
    rows = {"bytes into the engine": ("bytes", options.engine), "NumPy, the same engine": ("floats", options.floats)}
    for peer in options.peer:
        name, _, file = peer.partition("=")
        rows[f"NumPy, {name}"] = ("peer", Path(file))
    found = measured(rows, options)
    here = machine.describe()
    packages = ", ".join(" ".join(item) for item in store.versions("edgeres", "onnxruntime", "openvino").items())
    print(
        f"{onnx_io.info(options.engine).arch}, {options.target}, {options.threads} threads, {options.rounds} rounds.\n"
        f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {packages}\n\n{table(found, rows)}"
    )
    if options.json:
        options.json.write_text(json.dumps({"machine": here.model_dump(), "milliseconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--row"]:
        kind, path, target, threads, model = sys.argv[2:]
        print(row(kind, Path(path), Target.parse(target), int(threads), Path(model)))
    else:
        main()
