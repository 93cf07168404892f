"""How close engines come to what this machine can do, and which layers cost most above their limit.

    python pipelines/benchmarks/roofline.py --onnxruntime FILE.onnx ... --openvino FILE.onnx ... [--top 8] [--json FILE]

Of each file: the peaks of the machine in that runtime, measured in the same minute; the engine's p50 and the share of
the limit that it reaches; the layers that lose most. Prints Markdown.
"""

import argparse
import json
import sys
from pathlib import Path

from edgeres import machine
from edgeres.limits import roofline, show
from edgeres.limits.roofline import Roofline
from edgeres.measure import Subject
from edgeres.types import Target

RUNTIMES = ("onnxruntime", "openvino")


def summary(rows: list[tuple[str, str, Roofline]]) -> str:
    """A line for each engine."""
    lines = [
        "| file | runtime | p50, ms | limit, ms | of the limit | peak GOP/s: INT8 | FP32 | GB/s, cache to memory |"
    ]
    lines.append("|---" * 8 + "|")
    for name, runtime, found in rows:
        peaks, moved = found.limits.peaks, found.limits.bandwidths
        rates = [f"{2 * peaks[one].rate / 1e9:.0f}" if one in peaks else "—" for one in ("int8", "fp32")]
        lines.append(
            f"| {name} | {runtime} | {found.whole.latency.p50:.2f} | {found.attainable:.2f} | **{found.share:.0%}** | "
            f"{' | '.join(rates)} | {max(rate for _, rate in moved) / 1e9:.0f} to {moved[-1][1] / 1e9:.0f} |"
        )
    return "\n".join(lines)


def layers(name: str, runtime: str, found: Roofline, top: int) -> str:
    """The layers that lose most, and what the others come to."""
    lines = [f"\n{name}, {runtime}: {found.profiled:.2f} ms in {len(found.layers)} layers by the runtime's profile.\n"]
    lines.append("| layer | runs in | ms | MMAC | kB | MAC a byte | GOP/s | of the attainable | lost, ms |")
    lines.append("|---" * 9 + "|")
    for one in found.worst[:top]:
        rate = f"{2 * one.macs / one.ms / 1e6:.0f}" if one.macs and one.ms else "—"
        arithmetic = [f"{one.macs / 1e6:.1f}", f"{one.intensity:.0f}"] if one.macs else ["—", "—"]
        lines.append(
            f"| {one.name} | {one.precision} | {one.ms:.3f} | {arithmetic[0]} | {one.moved / 1e3:.0f} | "
            f"{arithmetic[1]} | {rate} | {one.share:.0%} | {one.lost:.3f} |"
        )
    rest = found.worst[top:]
    lines.append(
        f"| {len(rest)} others | | {sum(one.ms for one in rest):.3f} | | | | | | {sum(one.lost for one in rest):.3f} |"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for runtime in RUNTIMES:
        parser.add_argument(f"--{runtime}", type=Path, nargs="*", default=[], metavar="FILE.onnx")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--top", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write everything here")
    options = parser.parse_args()

    here = machine.describe()
    rows = []
    for runtime in RUNTIMES:
        for path in getattr(options, runtime):
            found = roofline.roofline(Subject(path, Target(runtime, "cpu"), 1, options.threads))
            print(f"{path.name}, {runtime}: {found.share:.0%} {' '.join(found.whole.latency.notes)}", file=sys.stderr)
            rows.append((path.name, runtime, found))
    versions = ", ".join(f"{name} {here.packages[name]}" for name in ("edgeres", *RUNTIMES) if name in here.packages)
    print(
        f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {versions}. Batch 1, {options.threads} threads.\n"
    )
    print(summary(rows))
    for name, runtime, found in rows:
        print(layers(name, runtime, found, options.top))
    if options.json:
        raw = [{"file": name, "runtime": runtime, **show.roofline_json(found)} for name, runtime, found in rows]
        options.json.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
