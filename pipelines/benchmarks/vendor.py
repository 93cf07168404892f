"""Whether `edgeres bench` says what the vendor's own tool says of the same file, batch and threads.

    python pipelines/benchmarks/vendor.py MODEL.onnx ... [--threads 2] [--batch 1] [--rounds 10] [--seconds 2]

A round is one process of edgeres, then one of the tool, and its ratio the one median over the other. OpenVINO's tool is
`benchmark_app` (one stream, synchronous; it prints hundredths of a millisecond), whose latency is the infer request's
own: "in runtime" is the same figure and must be within 3 %; host to host stands beside it and says what the way there
and back costs. ONNX Runtime's perf test is not in its wheel; `tight.py` stands in, with bound buffers, as edgeres' own
"in runtime" of that runtime has them. Prints Markdown.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tools import versions

from edgeres import machine, onnx_io
from edgeres.measure import Subject, measure
from edgeres.types import Target

AIM = 0.03
"""How far a ratio of medians may lie from 1."""


def benchmark_app(model: Path, shape: list[int], threads: int, seconds: float) -> float:
    """The median that OpenVINO's tool reports, milliseconds."""
    with TemporaryDirectory() as folder:
        command = [
            *(Path(sys.executable).with_name("benchmark_app"), "-m", model, "-d", "CPU", "-api", "sync"),
            *("-hint", "none", "-nstreams", 1, "-nthreads", threads, "-infer_precision", "f32", "-t", round(seconds)),
            *("-data_shape", "[{}]".format(",".join(map(str, shape)))),
            *("-report_type", "no_counters", "-json_stats", "-report_folder", folder),
        ]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"benchmark_app failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        report = json.loads((Path(folder) / "benchmark_report.json").read_text(encoding="utf-8"))
    return float(report["execution_results"]["latency (ms)"])


def tight(model: Path, shape: list[int], threads: int, seconds: float) -> float:
    """The median of ONNX Runtime alone, milliseconds."""
    script = Path(__file__).with_name("tight.py")
    command = [sys.executable, script, model, shape[0], threads, seconds]
    return float(subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout)


TOOLS = {"openvino:cpu": benchmark_app, "onnxruntime:cpu": tight}


def row(name: str, found: list[tuple[float, float | None, float]]) -> str:
    """One line of the table from (edgeres' p50, the runtime's own, the tool's) of each round."""
    ratios = sorted(ours / theirs for ours, _, theirs in found)
    inner = [(own, theirs) for _, own, theirs in found if own is not None]
    ours, theirs = median(one[0] for one in found), median(one[2] for one in found)
    alike = median(a / b for a, b in inner) if inner else median(ratios)
    own = f"{median(one[0] for one in inner):.3f} | **{alike:.3f}**" if inner else "— | —"
    within = "yes" if abs(alike - 1) <= AIM else "no"
    return (
        f"| {name} | {ours:.3f} | {theirs:.3f} | **{median(ratios):.3f}** | {ratios[0]:.3f} to {ratios[-1]:.3f} "
        f"| {own} | {within} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()

    here = machine.describe()
    print(f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {versions()}.")
    print(f"Batch {options.batch}, {options.threads} threads, {options.rounds} rounds in turn; medians, ms.\n")
    print("| file, target | edgeres p50 | tool p50 | ratio | of the rounds | in runtime | its ratio | within 3 % |")
    print("|---" * 8 + "|")
    for model in options.models:
        sides = [int(side or 1) for side in onnx_io.input_shape(onnx_io.load(model))[1:]]
        for name, tool in TOOLS.items():
            subject = Subject(model, Target.parse(name), options.batch, options.threads)
            found = []
            for turn in range(options.rounds):
                (ours,) = measure([subject], rounds=1, in_place=True)
                theirs = tool(model, [options.batch, *sides], options.threads, options.seconds)
                found.append((ours.latency.p50, ours.latency.device_p50, theirs))
                doubts = " ".join(ours.latency.notes)
                print(f"{model.name} {name} {turn + 1}: {found[-1]} {doubts}", file=sys.stderr, flush=True)
            print(row(f"{model.name}, {name}", found), flush=True)


if __name__ == "__main__":
    main()
