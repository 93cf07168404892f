"""How long calibrating and quantizing takes, and how far that is from the floor: decode and infer alone.

    python pipelines/benchmarks/speed.py MODEL.onnx PHOTOS [--photos 512] [--rounds 3] [--json FILE]

Every line is the median of whole processes, from start to exit, that ran in turn: edgeres with each range method (and
its other levels), `nncf.quantize` on the OpenVINO graph, onnxruntime's Percentile and Entropy, the floors (the same
FP32 graph on OpenVINO and on ONNX Runtime, the same images, nothing else), and decoding alone. onnxruntime's histogram
methods hold the activations of all images: they run on 64, and once on all in strides. Prints Markdown.
"""

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median

from cost import Cost
from tools import FLOORS, LEVELS, METHODS, PARTS, STRIDES, output, tool, versions

from edgeres import machine, onnx_io, store

HELD = ("onnxruntime Percentile U8", "onnxruntime Entropy U8")
PEER = "NNCF from OpenVINO"
FEW = 64
"""Images whose activations onnxruntime's histogram methods can hold: 8 GB of ResNet-50's."""


def plan(photos: int, rounds: int) -> list[list[tuple[str, int]]]:
    """The tools, and how many photos each gets, of each round."""
    every = [*PARTS, *FLOORS, *METHODS, *LEVELS, PEER]
    usual = [*((name, photos) for name in every), *((name, min(FEW, photos)) for name in HELD)]
    slow = [(name, photos) for name in STRIDES] if photos > FEW else []
    return [usual + (slow if turn == 0 else []) for turn in range(rounds)]


def breakdown(path: Path) -> dict[str, float]:
    """Where edgeres' own time went, as far as its sidecar tells."""
    sidecar = store.read_sidecar(path)
    found = sidecar.results.get("seconds", {}) if sidecar else {}
    return {str(step): float(seconds) for step, seconds in found.items()} if isinstance(found, dict) else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--photos", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/speed"))
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    costs: dict[tuple[str, int], list[Cost]] = {}
    steps: dict[str, dict[str, float]] = {}
    for turn in plan(options.photos, options.rounds):
        for name, count in turn:
            made = output(name, options.out)
            copied = made.with_suffix(".input.onnx")
            shutil.copy(options.model, copied)
            cost = tool(name, copied, options.images, count, made)
            costs.setdefault((name, count), []).append(cost)
            if name.startswith("edgeres"):
                steps[name] = breakdown(made.with_suffix(".stats")) | breakdown(made)
            print(f"{name}, {count}: {cost.failed or f'{cost.seconds:.1f} s'}", file=sys.stderr, flush=True)

    here = machine.describe()
    heading = (
        f"{onnx_io.info(options.model).arch}, {options.photos} photos, medians of {options.rounds} rounds.\n"
        f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {versions()}"
    )
    print(f"{heading}\n\n{table(costs, options.photos)}\n\n{told(steps, costs, options.photos)}", flush=True)
    if options.json:
        runs = [{"tool": name, "photos": count, **asdict(one)} for (name, count), all_ in costs.items() for one in all_]
        raw = {"heading": heading, "machine": here.model_dump(), "runs": runs, "edgeres": steps}
        options.json.write_text(json.dumps(raw, indent=1) + "\n")


def table(costs: dict[tuple[str, int], list[Cost]], photos: int) -> str:
    """Markdown; ratios are of seconds an image, to the fastest floor and to NNCF."""
    each = {
        key: median(one.seconds for one in found) / key[1]
        for key, found in costs.items()
        if not any(one.failed for one in found)
    }
    floor = min((each[name, photos] for name in FLOORS if (name, photos) in each), default=float("nan"))
    peer = each.get((PEER, photos), float("nan"))
    lines = ["| | photos | seconds | ms an image | over the floor | of NNCF's time | peak GB |", "|---" * 7 + "|"]
    for (name, count), found in costs.items():
        if (name, count) not in each:
            lines.append(f"| {name} | {count} | {next(one.failed for one in found if one.failed)} | | | | |")
            continue
        here = each[name, count]
        peak = max(one.peak_gb for one in found)
        ratios = f"{here / floor:.2f}x | {here / peer:.2f}"
        lines.append(f"| {name} | {count} | {here * count:.1f} | {1e3 * here:.1f} | {ratios} | {peak:.2f} |")
    return "\n".join(lines)


def told(steps: dict[str, dict[str, float]], costs: dict[tuple[str, int], list[Cost]], photos: int) -> str:
    """Where edgeres' time went in the last round, by its own account; the rest is Python's start and the ONNX file."""
    lines = [
        f"{name}, {costs[name, photos][-1].seconds:.1f} s: "
        + ", ".join(f"{step} {seconds:.1f} s" for step, seconds in found.items())
        for name, found in steps.items()
        if found
    ]
    return "\n".join(["Where the time goes, as the sidecars say:", *lines]) if lines else ""


if __name__ == "__main__":
    main()
